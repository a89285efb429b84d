"""Addresses of metrics_listen."""

from __future__ import annotations

import socket

import pytest

from poolproxy.acceptor.http import listen
from poolproxy.errors import ConfigError


def test_a_busy_address_names_the_setting():
    """Two proxies on one machine: the second is told which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"metrics_listen: 127.0.0.1:{port} is in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.1", "this machine has no address 192.0.2.1"),
        ("no such host", "can't resolve 'no such host'"),
    ],
)
def test_an_address_that_is_not_ours_names_the_setting(host, text):
    """A foreign address or an unknown name is an error of the configuration with a cure."""
    with pytest.raises(ConfigError, match=f'metrics_listen: {text}.*or "" to serve no metrics'):
        listen(host, 9127)


def test_a_star_listens_on_every_family_of_the_machine():
    """ "*" opens one socket a family, and the same port in both is no conflict."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sockets = listen("*", port)
    try:
        families = [sock.family for sock in sockets]
        assert socket.AF_INET in families
        assert len(families) == len(set(families))
        with socket.create_connection(("127.0.0.1", port)):
            pass
    finally:
        for sock in sockets:
            sock.close()
