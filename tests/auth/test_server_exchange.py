"""Logging in to PostgreSQL, to a scramp server, and to servers that misbehave."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramException, ScramMechanism

from poolproxy.auth.exchange import Compute
from poolproxy.auth.scram import MAX_MESSAGE_BYTES, ScramKeys, keys_from, salted_password
from poolproxy.auth.secrets import PlainSecret, Secret, md5_secret
from poolproxy.auth.server import Done, Fail, Reply, ServerExchange, ServerStep, Wait

from .drive import CHEAP, NONCE, SALT, scram_secret, scramp_server

MECHANISMS = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
WRONG_TYPE = "server login failed: wrong password type"
UNVERIFIED = "server login failed: failed to verify server signature"
BAD_SIGNATURE = "server login failed: invalid server signature"
UNANSWERABLE = "failed to answer authreq"
KEYS = keys_from(salted_password("pw", SALT, CHEAP))


def login(
    secret: Secret | None = None, *, password: str | None = None, keys: ScramKeys | None = None
) -> ServerExchange:
    return ServerExchange("joe", secret, password, keys, NONCE)


def failure(step: ServerStep) -> str:
    assert isinstance(step, Fail)
    assert step.error.hint
    assert step.error.severity == "FATAL"
    assert step.error.reason == "server_login"
    return step.error.message


def settle(exchange: ServerExchange, step: ServerStep) -> ServerStep:
    return exchange.computed(step.request.derive()) if isinstance(step, Compute) else step


def until_final(exchange: ServerExchange, password: str = "pw") -> bytes:
    """Drive the exchange with a scramp server up to its server-final, not yet fed."""
    server = scramp_server(password)
    step = exchange.feed(10, MECHANISMS)
    assert isinstance(step, Reply)
    mechanism, _, rest = step.payload.partition(b"\0")
    assert mechanism == b"SCRAM-SHA-256"
    assert struct.unpack("!i", rest[:4])[0] == len(rest) - 4
    server.set_client_first(rest[4:].decode())
    step = settle(exchange, exchange.feed(11, server.get_server_first().encode()))
    assert isinstance(step, Reply)
    server.set_client_final(step.payload.decode())
    return server.get_server_final().encode()


def test_a_server_that_trusts_us() -> None:
    """Ok at once is fine, with or without a password at hand."""
    assert login().feed(0, b"") == Done()


# -- cleartext and md5 ----------------------------------------------------------------------------


def test_cleartext_sends_a_plain_password() -> None:
    """From the secret or, going before it, from the password setting; bytes come out as they were."""
    for exchange in (
        login(PlainSecret("p\udcffw")),
        login(PlainSecret("other"), password="p\udcffw"),
        login(md5_secret("other", "joe"), password="p\udcffw"),
    ):
        assert exchange.feed(3, b"") == Reply(b"p\xffw\0")
        assert exchange.feed(0, b"") == Done()


@pytest.mark.parametrize(
    "secret", [None, PlainSecret(""), md5_secret("pw", "joe"), scram_secret("pw")]
)
def test_cleartext_needs_a_plain_password(secret: Secret | None) -> None:
    """A hash is never sent as if it were the password."""
    assert failure(login(secret, keys=KEYS).feed(3, b"")) == WRONG_TYPE


@pytest.mark.parametrize("secret", [PlainSecret("pw"), md5_secret("pw", "joe")])
def test_md5_answers_with_the_salted_hash(secret: Secret) -> None:
    """A plain password and its md5 secret give the same answer."""
    exchange = login(secret)
    hashed = hashlib.md5(b"pwjoe").hexdigest().encode()
    answer = b"md5" + hashlib.md5(hashed + b"\1\2\3\4").hexdigest().encode() + b"\0"
    assert exchange.feed(5, b"\1\2\3\4") == Reply(answer)
    assert exchange.feed(0, b"") == Done()


@pytest.mark.parametrize("secret", [None, scram_secret("pw")])
def test_md5_needs_a_plain_or_md5_secret(secret: Secret | None) -> None:
    """A SCRAM secret can't make the hash."""
    step = login(secret, keys=KEYS).feed(5, b"1234")
    assert failure(step) == WRONG_TYPE
    assert isinstance(step, Fail)
    assert '"joe"' in step.error.hint
    assert "auth_file" in step.error.hint


@pytest.mark.parametrize("salt", [b"", b"123", b"12345"])
def test_md5_wants_a_salt_of_four_bytes(salt: bytes) -> None:
    """A short or long salt is a broken server."""
    assert failure(login(PlainSecret("pw")).feed(5, salt)) == UNANSWERABLE


# -- scram ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["pw", "pässwörd \u2168"])
def test_scram_with_a_password(password: str) -> None:
    """The derivation is handed out, and the login ends only when the server has proven itself."""
    exchange = login(PlainSecret(password))
    assert exchange.feed(12, until_final(exchange, password)) == Wait()
    assert exchange.feed(0, b"") == Done()


@pytest.mark.parametrize("secret", [scram_secret("pw"), None])
def test_scram_pass_through_needs_no_derivation(secret: Secret | None) -> None:
    """The keys of a client's login are enough."""
    exchange = login(secret, keys=KEYS)
    exchange.feed(10, MECHANISMS)
    step = exchange.feed(11, f"r={NONCE}server,s=c2FsdA==,i=4096".encode())
    assert isinstance(step, Reply)
    exchange = login(secret, keys=KEYS)
    assert exchange.feed(12, until_final(exchange)) == Wait()


@pytest.mark.parametrize(
    ("secret", "keys"),
    [
        (None, None),
        (PlainSecret(""), None),
        (scram_secret("pw"), None),
        (md5_secret("pw", "joe"), KEYS),
    ],
)
def test_scram_needs_a_password_or_keys(secret: Secret | None, keys: ScramKeys | None) -> None:
    """Before any client has logged in, a SCRAM secret alone opens no server."""
    assert failure(login(secret, keys=keys).feed(10, MECHANISMS)) == WRONG_TYPE


@pytest.mark.parametrize(
    "mechanisms", [b"", b"\0", b"SCRAM-SHA-256-PLUS\0\0", b"OAUTHBEARER\0\0", b"XSCRAM-SHA-256\0\0"]
)
def test_unknown_mechanisms_are_refused(mechanisms: bytes) -> None:
    """Only SCRAM-SHA-256 by its exact name will do."""
    assert failure(login(PlainSecret("pw")).feed(10, mechanisms)) == (
        "server login failed: none of the server's SASL authentication mechanisms are supported"
    )


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=stolen,s=c2FsdA==,i=4096",
        f"r={NONCE},s=c2FsdA==,i=4096".encode(),
        f"r={NONCE}x,s=c2FsdA==,i=1000000000".encode(),
        f"r={NONCE}x,s=,i=4096".encode(),
        b"x" * (MAX_MESSAGE_BYTES + 1),
    ],
)
def test_a_hostile_server_first_ends_the_login(message: bytes) -> None:
    """Foreign nonces and derivations beyond bounds are never answered."""
    exchange = login(PlainSecret("pw"))
    exchange.feed(10, MECHANISMS)
    assert failure(exchange.feed(11, message)) == UNANSWERABLE


@pytest.mark.parametrize(
    ("final", "message"),
    [
        (b"v=" + b"A" * 43 + b"=", BAD_SIGNATURE),
        (b"", UNVERIFIED),
        (b"x=1", UNVERIFIED),
        (b"v=", UNVERIFIED),
        (b"e=invalid-proof", UNVERIFIED),
    ],
)
def test_a_server_without_the_secret_is_refused(final: bytes, message: str) -> None:
    """A wrong or missing signature fails in PgBouncer's words, for passwords and keys alike."""
    for exchange in (login(PlainSecret("pw")), login(keys=KEYS)):
        until_final(exchange)
        assert failure(exchange.feed(12, final)) == message


def test_ok_before_the_signature_is_refused() -> None:
    """A server that skips its proof, at any point of SCRAM, is not believed."""
    exchange = login(PlainSecret("pw"))
    exchange.feed(10, MECHANISMS)
    assert failure(exchange.feed(0, b"")) == UNVERIFIED
    exchange = login(PlainSecret("pw"))
    until_final(exchange)
    assert failure(exchange.feed(0, b"")) == UNVERIFIED


# -- the order of requests ------------------------------------------------------------------------


def _fresh() -> ServerExchange:
    return login(PlainSecret("pw"))


def _answered() -> ServerExchange:
    exchange = _fresh()
    exchange.feed(3, b"")
    return exchange


def _began() -> ServerExchange:
    exchange = _fresh()
    exchange.feed(10, MECHANISMS)
    return exchange


def _proving() -> ServerExchange:
    exchange = _fresh()
    until_final(exchange)
    return exchange


def _verified() -> ServerExchange:
    exchange = _fresh()
    exchange.feed(12, until_final(exchange))
    return exchange


@pytest.mark.parametrize(
    ("reach", "codes"),
    [
        (_fresh, [1, 2, 6, 7, 8, 9, 11, 12, 13, -1, 2**31 - 1]),
        (_answered, [3, 5, 10, 11, 12]),
        (_began, [3, 5, 10, 12]),
        (_proving, [3, 5, 10, 11]),
        (_verified, [3, 5, 10, 11, 12]),
    ],
)
def test_requests_out_of_order_are_refused(reach: object, codes: list[int]) -> None:
    """No request but the due one is answered: above all no password in the middle of SCRAM."""
    for code in codes:
        assert callable(reach)
        step = reach().feed(code, b"\1\2\3\4")
        assert failure(step) == UNANSWERABLE
        assert str(code) in step.error.hint


def test_an_ended_exchange_takes_nothing() -> None:
    """After Done or Fail, or while a derivation runs, feeding is the caller's bug."""
    done, failed, computing = _fresh(), _fresh(), _began()
    done.feed(0, b"")
    failed.feed(99, b"")
    computing.feed(11, f"r={NONCE}x,s=c2FsdA==,i=1".encode())
    for exchange in (done, failed, computing):
        with pytest.raises(RuntimeError):
            exchange.feed(0, b"")
    for exchange in (done, failed, _fresh()):
        with pytest.raises(RuntimeError):
            exchange.computed(b"x" * 32)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([3, 5, 10, 11, 12]), st.binary(max_size=60)), max_size=5))
def test_no_server_crashes_the_exchange(requests: list[tuple[int, bytes]]) -> None:
    """Whatever is sent, the exchange answers or fails, and no junk ever ends in Done."""
    exchange = _fresh()
    for code, data in requests:
        step = exchange.feed(code, data)
        assert step != Done()
        if isinstance(step, Fail | Compute):
            break


# -- channel binding ------------------------------------------------------------------------------

END_POINT = b"e" * 32
PLUS = "SCRAM-SHA-256-PLUS"


@pytest.mark.parametrize("seen", [END_POINT, b"x" * 32])
def test_channel_binding_covers_the_certificate(seen: bytes) -> None:
    """scramp takes our proof if it has the certificate that we have seen, and no other."""
    mechanism = ScramMechanism(PLUS)
    info = mechanism.make_auth_info("pw", iteration_count=CHEAP, salt=SALT)
    server = mechanism.make_server(
        lambda _user: info,
        channel_binding=("tls-server-end-point", seen),
        s_nonce="theserversnonce",
    )
    exchange = ServerExchange("joe", None, "pw", None, NONCE, END_POINT)
    step = exchange.feed(10, MECHANISMS)
    assert isinstance(step, Reply)
    name, _, rest = step.payload.partition(b"\0")
    assert name == PLUS.encode()
    server.set_client_first(rest[4:].decode())
    step = settle(exchange, exchange.feed(11, server.get_server_first().encode()))
    assert isinstance(step, Reply)
    if seen == END_POINT:
        server.set_client_final(step.payload.decode())
        assert exchange.feed(12, server.get_server_final().encode()) == Wait()
    else:
        with pytest.raises(ScramException):
            server.set_client_final(step.payload.decode())


def test_a_withdrawn_offer_is_noticed() -> None:
    """We could have bound the channel: the flag y lets a server see that its offer was taken away."""
    exchange = ServerExchange("joe", None, "pw", None, NONCE, END_POINT)
    step = exchange.feed(10, b"SCRAM-SHA-256\0\0")
    assert isinstance(step, Reply)
    assert step.payload.partition(b"\0")[2][4:].startswith(b"y,,")
