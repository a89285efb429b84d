"""Fixtures of the tests of prepared statements against PostgreSQL."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator

import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.statements import Statements
from tests.wire.pooled import Backing, Pooled
from tests.wire.prepared_traffic import (
    direct_connections,
)


@pytest.fixture
def connect(postgres: PostgresServer) -> Iterator[Callable[[], socket.socket]]:
    """Makes direct connections."""
    with direct_connections(postgres) as make:
        yield make


@pytest.fixture
def server(connect: Callable[[], socket.socket]) -> Backing:
    """A server connection that keeps many statements."""
    return Backing(connect(), PreparedBackend(Statements(), 100))


@pytest.fixture
def client() -> Pooled:
    """A client without statements."""
    return Pooled(random.Random(1))
