"""What listens at a database's host and port is no PostgreSQL."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.system.support import eventually

ANSWERS = {
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "zeros": bytes(64),
    "broken key": b"R\0\0\0\x08\0\0\0\0K\0\0\0\x08abcd",
    "broken status": b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08abc\0",
    "silence": b"",
}


@contextmanager
def odd_server(answer: bytes) -> Iterator[int]:
    """The port of a server that answers the first bytes it gets with something of its own."""

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


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy) -> Iterator[ProxyProcess]:
    """A proxy before a database for each of the answers."""
    with ExitStack() as stack:
        ports = {name: stack.enter_context(odd_server(said)) for name, said in ANSWERS.items()}
        yield start_module_proxy(
            {
                "poolproxy": {"auth_type": "trust", "workers": 1, "client_login_timeout": "1s"},
                "databases": {name: {"host": HOST, "port": port} for name, port in ports.items()},
                "users": {"alice": {"password": "secret"}},
            }
        )


@pytest.mark.parametrize("name", ANSWERS)
def test_the_client_gets_an_error_and_the_worker_lives(proxy: ProxyProcess, name: str) -> None:
    """A log-in that waits for such a server ends with an error; the worker goes on."""
    workers = proxy.worker_pids()
    with pytest.raises(psycopg.OperationalError, match=r"client_login_timeout \(server down\)"):
        psycopg.connect(host=proxy.host, port=proxy.port, user="alice", dbname=name)
    assert proxy.worker_pids() == workers
    line = rf"S-\d+: {name}/alice\S* pid=0 closing because: "
    eventually(lambda: re.search(line, proxy.log), "the log tells of the server")
