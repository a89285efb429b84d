"""Listening sockets."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from poolproxy.acceptor.listeners import Listener, open_listeners
from poolproxy.errors import ConfigError
from poolproxy.settings.schema import Settings
from tests.fixtures.proxy import free_port


@contextmanager
def listening(settings: Settings) -> Iterator[list[Listener]]:
    listeners = open_listeners(settings)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def settings_for(folder: Path | str, *addresses: str) -> Settings:
    return Settings(listen_addr=addresses, listen_port=free_port(), unix_socket_dir=str(folder))


def test_every_address_gets_a_socket() -> None:
    """IPv4 and IPv6 are listened on side by side with one port."""
    settings = settings_for("", "127.0.0.1", "::1")
    with listening(settings) as listeners:
        assert [listener.host for listener in listeners] == ["127.0.0.1", "::1"]
        for host in settings.listen_addr:
            socket.create_connection((host, settings.listen_port)).close()
        assert listeners[1].name == f"[::1]:{settings.listen_port}"


def test_a_star_is_every_address() -> None:
    """Both families, each on its own socket."""
    settings = settings_for("", "*")
    with listening(settings) as listeners:
        assert {listener.host for listener in listeners} == {"0.0.0.0", "::"}


def test_the_unix_socket_has_its_mode_and_is_removed_at_the_end(tmp_path: Path) -> None:
    """unix_socket_mode is set on .s.PGSQL.<port>, and closing unlinks it."""
    settings = attrs.evolve(settings_for(tmp_path), unix_socket_mode=0o750)
    path = tmp_path / f".s.PGSQL.{settings.listen_port}"
    with listening(settings):
        assert stat.S_IMODE(path.stat().st_mode) == 0o750
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_the_unix_socket_can_belong_to_a_group(tmp_path: Path) -> None:
    """unix_socket_group takes a name; an unknown one is named in the mistake."""
    own = os.getegid()
    settings = attrs.evolve(settings_for(tmp_path), unix_socket_group=grp.getgrgid(own).gr_name)
    with listening(settings) as listeners:
        assert os.stat(listeners[0].path).st_gid == own
    with pytest.raises(ConfigError, match=r"unix_socket_group: there is no group 'nosuch'"):
        open_listeners(attrs.evolve(settings, unix_socket_group="nosuch"))
    assert not list(tmp_path.iterdir())


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    """The file of a process that is gone is no obstacle."""
    settings = settings_for(tmp_path)
    path = tmp_path / f".s.PGSQL.{settings.listen_port}"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with listening(settings), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_unix_socket_is_left_alone(tmp_path: Path) -> None:
    """Somebody answers there: refuse with PgBouncer's words and touch nothing."""
    settings = settings_for(tmp_path)
    path = tmp_path / f".s.PGSQL.{settings.listen_port}"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(ConfigError, match="unix socket is in use, cannot continue"):
            open_listeners(settings)
    assert path.exists()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    """An ordinary file in the way is an error, not rubbish."""
    settings = settings_for(tmp_path)
    path = tmp_path / f".s.PGSQL.{settings.listen_port}"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="unix socket is in use"):
        open_listeners(settings)
    assert path.read_text() == "precious"


def test_one_bad_address_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """As long as one address works the others' failures are only told."""
    with listening(settings_for("", "192.0.2.1", "127.0.0.1")) as listeners:
        assert [listener.host for listener in listeners] == ["127.0.0.1"]
    assert "this machine has no address 192.0.2.1 (listen_addr)" in caplog.text


def test_no_good_address_is_an_error(tmp_path: Path) -> None:
    """All TCP addresses failing ends the start, with every reason and nothing left behind."""
    settings = settings_for(tmp_path, "127.0.0.1", "192.0.2.1")
    with (
        socket.create_server(("127.0.0.1", settings.listen_port)),
        pytest.raises(ConfigError) as caught,
    ):
        open_listeners(settings)
    first, second = caught.value.mistakes
    assert "is in use; choose another listen_port" in str(first)
    assert "no address 192.0.2.1" in str(second)
    assert not list(tmp_path.iterdir())


def test_nowhere_to_listen_is_an_error() -> None:
    """Neither listen_addr nor unix_socket_dir."""
    with pytest.raises(ConfigError, match="nowhere to listen on"):
        open_listeners(settings_for(""))


def test_silent_connections_can_be_kept_back() -> None:
    """With tcp_defer_accept a TCP connection is there only when its first bytes are."""
    settings = attrs.evolve(settings_for("", "127.0.0.1"), tcp_defer_accept=True)
    with (
        listening(settings) as (listener,),
        socket.create_connection((listener.host, listener.port)) as client,
    ):
        with pytest.raises(BlockingIOError):
            listener.sock.accept()
        client.sendall(b"x")
        listener.sock.settimeout(10)
        listener.sock.accept()[0].close()
