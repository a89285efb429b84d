"""What listens at a database's host and port is no PostgreSQL."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.fixtures.proxy import HOST, StartProxy

ANSWERS = {
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "zeros": bytes(64),
    "broken key": b"R\0\0\0\x08\0\0\0\0K\0\0\0\x08abcd",
    "broken status": b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08abc\0",
    "silence": b"",
}


@pytest.fixture(params=ANSWERS)
def odd_server(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that answers the first bytes it gets with something of its own."""
    answer = ANSWERS[request.param]

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.recv(4096)
                sock.sendall(answer)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_the_client_gets_an_error_and_the_worker_lives(
    start_proxy: StartProxy, odd_server: int
) -> None:
    """A log-in that waits for such a server ends with an error; the worker goes on."""
    proxy = start_proxy(
        {
            "poolproxy": {"auth_type": "trust", "workers": 1, "client_login_timeout": "1s"},
            "databases": {"odd": {"host": HOST, "port": odd_server}},
            "users": {"alice": {"password": "secret"}},
        }
    )
    workers = proxy.worker_pids()
    with pytest.raises(psycopg.OperationalError, match=r"client_login_timeout \(server down\)"):
        psycopg.connect(proxy.url(user="alice", password="secret", database="odd"))
    assert proxy.worker_pids() == workers
    assert "closing because: " in proxy.log
