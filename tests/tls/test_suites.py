"""The suites of TLS 1.3, by real handshakes; and the proof that they can be chosen at all."""

from __future__ import annotations

import ctypes
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolproxy.errors import ConfigError
from poolproxy.tls import suites
from poolproxy.tls.contexts import contexts, load
from poolproxy.tls.suites import NoChoice, UnknownSuite, choose, prove
from tests.fixtures.tls import HOST, Certificates
from tests.fixtures.toml import to_toml

SUITES = (
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_128_CCM_SHA256",  # not among OpenSSL's usual ones
)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is remembered of earlier proofs."""
    for function in (prove, suites._openssl):
        function.cache_clear()
    yield
    for function in (prove, suites._openssl):
        function.cache_clear()


def configured(folder: Path, **settings: object) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a configuration: for clients and for servers."""
    path = folder / "poolproxy.toml"
    files = {"client_tls_key_file": "p.key", "client_tls_cert_file": "p.pem"}
    ours = {"auth_type": "trust", "client_tls_sslmode": "require", **files, **settings}
    ours |= {"server_tls_sslmode": "verify-full", "server_tls_ca_file": "ca.pem"}
    path.write_text(to_toml({"poolproxy": ours, "databases": {"*": {"host": HOST}}}))
    loaded = load(path)
    made = contexts(loaded.config.settings, loaded.files)
    assert made.client is not None
    assert made.server is not None
    return made.client, made.server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Certificates(tmp_path).issue("p", HOST)
    return tmp_path


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """Do one; version and suite, on which both agree. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname=HOST)
    unfinished = [theirs, ours]
    for _ in range(10):
        for end in tuple(unfinished):
            try:
                end.do_handshake()
                unfinished.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not unfinished
    assert ours.cipher() == theirs.cipher()
    cipher = ours.cipher()
    assert cipher is not None
    return str(ours.version()), cipher[0]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("side", ["client", "server"])
def test_each_suite(folder: Path, suite: str, side: str) -> None:
    """The setting of either side decides which suite a handshake ends with."""
    every = ":".join(SUITES)
    other = {"client": "server", "server": "client"}[side]
    chosen = {f"{side}_tls13_ciphers": suite, f"{other}_tls13_ciphers": every}
    assert handshake(*configured(folder, **chosen)) == ("TLSv1.3", suite)


def test_the_order_is_ours(folder: Path) -> None:
    """As with the older ciphers the server's side decides which of the common ones it is."""
    for order in (SUITES, SUITES[::-1]):
        names = ":".join(order)
        made = configured(folder, client_tls13_ciphers=names, server_tls13_ciphers=":".join(SUITES))
        assert handshake(*made) == ("TLSv1.3", order[0])


def test_no_common_suite(folder: Path) -> None:
    """There is no handshake; nothing that was excluded is used after all."""
    names = {"client_tls13_ciphers": SUITES[0], "server_tls13_ciphers": SUITES[1]}
    ours = configured(folder, **names, client_tls_protocols="tlsv1.3")
    with pytest.raises(ssl.SSLError):
        handshake(*ours)


def test_older_versions_keep_their_ciphers(folder: Path) -> None:
    """The two settings don't touch each other."""
    made, _ = configured(
        folder,
        client_tls13_ciphers=SUITES[0],
        client_tls_ciphers="ECDHE-RSA-AES256-GCM-SHA384",
    )
    names = [cipher["name"] for cipher in made.get_ciphers()]
    assert names == [SUITES[0], "ECDHE-RSA-AES256-GCM-SHA384"]


@pytest.mark.parametrize(
    "given", ["NONSENSE", f"{SUITES[0]}:NONSENSE", "HIGH", f"{SUITES[0]}:", "ä", SUITES[0].lower()]
)
def test_what_is_no_suite(folder: Path, given: str) -> None:
    """It is a mistake of its setting; and nothing of OpenSSL's complaint is left for others."""
    with pytest.raises(ConfigError) as caught:
        configured(folder, client_tls13_ciphers=given)
    assert "client_tls13_ciphers: " in str(caught.value)
    assert "names no suite of TLS 1.3 that OpenSSL has" in str(caught.value)
    made = configured(folder)
    assert handshake(*made)[0] == "TLSv1.3"
    with pytest.raises(UnknownSuite):
        choose(made[0], given)
    assert handshake(*configured(folder))[0] == "TLSv1.3"


def test_another_layout_is_seen_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pointer leads elsewhere its options are not the context's, and nothing is written to it."""
    decoy = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    decoy.options ^= ssl.OP_NO_TICKET
    before = decoy.get_ciphers()
    elsewhere = suites._pointer(decoy)
    made, _ = configured(folder)
    monkeypatch.setattr(suites, "_pointer", lambda context: elsewhere)
    with pytest.raises(NoChoice, match="layout"):
        choose(made, SUITES[0])
    assert decoy.get_ciphers() == before


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "layout"),
        ("print('hello')", "layout"),
        ("", "layout"),
    ],
)
def test_a_proof_that_fails_is_a_mistake(
    folder: Path, fresh: None, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    """Also if the process crashes: the setting is refused, with the cure, and we go on."""
    run = subprocess.run

    def instead(command: list[str], **more: object) -> object:
        return run([sys.executable, "-c", program], **more)

    monkeypatch.setattr(subprocess, "run", instead)
    with pytest.raises(ConfigError) as caught:
        configured(folder, client_tls13_ciphers=SUITES[0])
    assert "3.15 or later" in str(caught.value)
    assert words in str(caught.value)


def test_a_library_without_the_function(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and not called."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with pytest.raises(NoChoice, match="SSL_CTX_get_options"):
        choose(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), SUITES[0])


def test_where_python_can_choose_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 3.15 on nothing is proven and no pointer is looked for."""

    class Newer(ssl.SSLContext):
        def set_ciphersuites(self, names: str) -> None:
            if names != SUITES[0]:
                raise ssl.SSLError("no cipher match")
            self.chosen = names

        def get_ciphers(self) -> list[dict[str, object]]:  # type: ignore[override]
            return [{"name": self.chosen, "protocol": "TLSv1.3"}]

    monkeypatch.setattr(suites, "_pointer", None)
    context = Newer(ssl.PROTOCOL_TLS_CLIENT)
    choose(context, SUITES[0])
    with pytest.raises(UnknownSuite):
        choose(context, "NONSENSE")
