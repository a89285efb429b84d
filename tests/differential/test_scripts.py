"""What the differential tests stand on: the tables of docs/, and examples that print."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.differential import statements
from tests.differential.encrypted import encrypt
from tests.differential.masks import LOSSES, MASKS, Mask
from tests.differential.programs import SCENES, examples
from tests.differential.script import Example, read_script
from tests.differential.table import MODES, PAGE, rows
from tests.fixtures.tls import HOST, Certificates
from tests.system.protocol_client import SSL_REQUEST, RawClient


@pytest.mark.parametrize("mask", MASKS + LOSSES, ids=lambda mask: mask.name)
def test_a_mask_belongs_to_a_row(mask: Mask) -> None:
    """Each difference from PostgreSQL has its row in the documentation, found by the first cell."""
    page = (PAGE.parent / mask.page).read_text()
    assert re.search(rf"^\| {re.escape(mask.row)} \|", page, re.MULTILINE)


def test_every_row_is_tried() -> None:
    """The random traffic has all that the table lists, but for what has tests of its own."""
    tried = {row for row, _, _ in SCENES} | {statements.TRANSACTIONS, statements.CANCEL}
    tried.add(statements.TWO_PHASES)
    for catalogue in (statements.STATEMENTS, statements.LASTING, statements.BY_NAME):
        tried.update(catalogue)
    others = [row for row in rows() if row.startswith(statements.ELSEWHERE)]
    assert sorted([*tried, *others]) == sorted(rows())


@given(st.one_of([examples(mode, "server", "worker", "query") for mode in MODES]))
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
def test_a_script_reads_as_what_it_was(example: Example) -> None:
    """What is printed of an example, amid other lines, is the same example when it is read."""
    assert read_script(f"a report\n{example}\nits end") == example


def test_a_lost_encrypted_connection_stays_lost(certificates: Certificates) -> None:
    """Who goes on sending to it, shorter messages too, is told each time what a socket would tell."""
    pem = certificates.issue("lost", HOST)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem.cert, pem.key)

    def secured() -> ssl.SSLSocket:
        other, _ = listener.accept()
        assert other.recv(len(SSL_REQUEST)) == SSL_REQUEST
        other.sendall(b"S")
        return context.wrap_socket(other, server_side=True)

    with socket.create_server((HOST, 0)) as listener, ThreadPoolExecutor(1) as pool:
        other = pool.submit(secured)
        with RawClient(listener.getsockname(), log_in=False) as one:
            encrypt(one, str(certificates.ca))
            with other.result() as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for size in (1000, 1000, 10):
                with pytest.raises(BrokenPipeError):
                    one.sock.send(bytes(size))
