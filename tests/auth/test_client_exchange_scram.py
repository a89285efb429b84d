"""Exchanges of SCRAM with a client: who is let in, what is refused, channel binding."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient as ScrampClient

from poolproxy.auth.client import (
    Accept,
    Ask,
    ClientExchange,
    Reject,
    Step,
    start,
)
from poolproxy.auth.scram import keys_from, make_secret, mock_salt, salted_password
from poolproxy.auth.scram_client import ScramClient
from poolproxy.auth.secrets import Md5Secret, PlainSecret, Secret
from tests.auth.exchanges import SASL_FAILED, SASL_MALFORMED, SECRETS, refused, send_md5, send_plain

from .drive import (
    CHEAP,
    MOCK_KEY,
    NONCE,
    SALT,
    begin,
    initial,
    scram_login,
    scram_secret,
    settle,
)

# -- scram ----------------------------------------------------------------------------------------


def test_scram_with_a_scram_secret_gives_keys() -> None:
    """The keys that log in to a server with the same secret come out of a client's login."""
    step = scram_login(begin("scram-sha-256", scram_secret("pw")), "pw")
    assert isinstance(step, Accept)
    assert step.final is not None
    assert step.final[0] == 12
    assert step.keys == keys_from(salted_password("pw", SALT, CHEAP))


def test_scram_with_a_plain_secret_gives_no_keys() -> None:
    """A secret made on the spot has a salt of ours: its keys would fit no server."""
    step = scram_login(begin("scram-sha-256", PlainSecret("pw")), "pw")
    assert isinstance(step, Accept)
    assert step.keys is None


def test_an_invented_secret_equal_to_the_stored_one_gives_keys_still() -> None:
    """What counts is where the secret came from, not its values."""
    secret = make_secret("pw", mock_salt(MOCK_KEY, "joe"), CHEAP)
    step = scram_login(begin("scram-sha-256", secret), "pw")
    assert isinstance(step, Accept)
    assert step.keys is not None


@pytest.mark.parametrize(
    "secret", [*(SECRETS[kind] for kind in SECRETS), None, PlainSecret(""), Md5Secret("0" * 32)]
)
def test_scram_fails_alike_for_everybody(secret: Secret | None) -> None:
    """Wrong password, unknown user, md5 secret, empty password: one exchange, one answer."""
    step = scram_login(begin("scram-sha-256", secret), "wrong")
    assert refused(step) == SASL_FAILED
    reference = scram_login(begin("scram-sha-256", SECRETS["plain"]), "wrong")
    assert isinstance(step, Reject)
    assert isinstance(reference, Reject)
    assert step.error.hint == reference.error.hint


def test_an_empty_password_matches_no_empty_secret() -> None:
    """A user without a password can't log in by sending none."""
    step = scram_login(begin("scram-sha-256", PlainSecret("")), "")
    assert refused(step) == SASL_FAILED


def challenge(secret: Secret | None) -> bytes:
    exchange = begin("scram-sha-256", secret)
    exchange.first()
    step = settle(exchange, exchange.feed(initial(b"n,,n=,r=abc")))
    assert isinstance(step, Ask)
    assert step.code == 11
    return step.data


def test_unknown_users_can_not_be_told_by_the_challenge() -> None:
    """Unknown, md5 and plain users are shown the same stable salt and rounds."""
    seen = {challenge(secret) for secret in (None, PlainSecret("pw"), SECRETS["md5"])}
    assert len(seen) == 1
    assert seen == {challenge(None)}


def test_scram_offers_one_mechanism() -> None:
    """There is no channel binding, so no PLUS is offered."""
    assert begin("scram-sha-256", None).first() == Ask(10, b"SCRAM-SHA-256\0\0")


@pytest.mark.parametrize("mechanism", [b"SCRAM-SHA-256-PLUS", b"", b"scram-sha-256", b"PLAIN"])
def test_another_mechanism_is_named(mechanism: bytes) -> None:
    """Choosing what was not offered has PgBouncer's own text."""
    exchange = begin("scram-sha-256", SECRETS["scram"])
    exchange.first()
    expected = "client selected an invalid SASL authentication mechanism"
    assert refused(exchange.feed(initial(b"n,,n=,r=a", mechanism))) == ("08P01", expected)


GOOD_INITIAL = initial(b"n,,n=,r=abc")


@pytest.mark.parametrize(
    "payload",
    [
        *(GOOD_INITIAL[:size] for size in range(len(GOOD_INITIAL))),
        GOOD_INITIAL + b"x",
        b"SCRAM-SHA-256\0" + struct.pack("!i", -1),
        b"SCRAM-SHA-256\0" + struct.pack("!i", 2**31 - 1) + b"n,,n=,r=abc",
        initial(b"p=tls-unique,,n=,r=abc"),
        initial(b"n,a=root,n=,r=abc"),
        initial(b"n,,n=" + b"x" * 5000 + b",r=abc"),
        b"x" * 100_000,
    ],
)
def test_malformed_initial_responses_are_refused(payload: bytes) -> None:
    """Cut short at every byte, with a wrong length or an unusable message: refused, never more."""
    exchange = begin("scram-sha-256", SECRETS["scram"])
    exchange.first()
    assert refused(exchange.feed(payload)) == SASL_MALFORMED


def test_a_malformed_final_is_refused_with_the_reason() -> None:
    """The hint tells the author of a client what is wrong, known user or not."""
    for secret in (None, SECRETS["scram"]):
        exchange = begin("scram-sha-256", secret)
        exchange.first()
        exchange.feed(GOOD_INITIAL)
        step = exchange.feed(b"c=biws,r=other,p=AAAA")
        assert refused(step) == SASL_MALFORMED
        assert isinstance(step, Reject)
        assert "nonce" in step.error.hint


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(codec="utf-8", blacklist_characters="\0"), min_size=1, max_size=20))
def test_a_password_works_by_every_method(password: str) -> None:
    """A plain secret lets its password in by plain, md5 and SCRAM (with our own client)."""
    secret = PlainSecret(password)
    assert send_plain(secret, password.encode()) == Accept()
    assert send_md5(secret, password) == Accept()
    assert isinstance(own_scram(secret, password), Accept)


def own_scram(secret: Secret, password: str) -> Step:
    client, exchange = ScramClient(password, "c" * 24), begin("scram-sha-256", secret)
    exchange.first()
    step = settle(exchange, exchange.feed(initial(client.first())))
    assert isinstance(step, Ask)
    request = client.read_first(step.data)
    assert request is not None
    return exchange.feed(client.final(keys_from(request.derive())))


# -- channel binding ------------------------------------------------------------------------------

END_POINT = b"e" * 32
PLUS = b"SCRAM-SHA-256-PLUS"


def bound(end_point: bytes | None = END_POINT) -> ClientExchange:
    login = {"salt": b"1234", "nonce": NONCE, "mock_key": MOCK_KEY, "iterations": CHEAP}
    return start("scram-sha-256", "joe", scram_secret("pw"), end_point=end_point, **login)


def scramp_bound(data: bytes) -> ScrampClient:
    return ScrampClient(
        [PLUS.decode()],
        "ignored",
        "pw",
        channel_binding=("tls-server-end-point", data),
        c_nonce="theclientsnonce",
    )


@pytest.mark.parametrize(("seen", "accepted"), [(END_POINT, True), (b"x" * 32, False)])
def test_channel_binding_covers_the_certificate(seen: bytes, accepted: bool) -> None:
    """scramp's proof over the same certificate is accepted, one over another is not."""
    exchange = bound()
    assert exchange.first() == Ask(10, PLUS + b"\0SCRAM-SHA-256\0\0")
    client = scramp_bound(seen)
    step = exchange.feed(initial(client.get_client_first().encode(), PLUS))
    assert isinstance(step, Ask)
    client.set_server_first(step.data.decode())
    step = exchange.feed(client.get_client_final().encode())
    if accepted:
        assert isinstance(step, Accept)
        assert step.final is not None
        client.set_server_final(step.final[1].decode())
    else:
        assert refused(step) == SASL_MALFORMED


@pytest.mark.parametrize(
    ("end_point", "mechanism", "header", "expected"),
    [
        (END_POINT, b"SCRAM-SHA-256", b"n,,", None),
        (END_POINT, b"SCRAM-SHA-256", b"y,,", SASL_MALFORMED),  # somebody has taken PLUS away
        (None, b"SCRAM-SHA-256", b"y,,", None),
        (None, b"SCRAM-SHA-256", b"p=tls-server-end-point,,", SASL_MALFORMED),
        (END_POINT, PLUS, b"n,,", SASL_MALFORMED),
        (END_POINT, PLUS, b"p=tls-unique,,", SASL_MALFORMED),
        (END_POINT, PLUS, b"p=tls-server-end-point,,", None),
        (
            None,
            PLUS,
            b"p=tls-server-end-point,,",
            ("08P01", "client selected an invalid SASL authentication mechanism"),
        ),
    ],
)
def test_the_flag_fits_the_mechanism(
    end_point: bytes | None, mechanism: bytes, header: bytes, expected: tuple[str, str] | None
) -> None:
    """Each flag of channel binding with and without the offer; a downgrade is refused."""
    exchange = bound(end_point)
    exchange.first()
    step = exchange.feed(initial(header + b"n=,r=theclientsnonce", mechanism))
    if expected is None:
        assert isinstance(step, Ask)
    else:
        assert refused(step) == expected
