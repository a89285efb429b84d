"""The exchange with a connecting client, for every auth_type."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramException

from poolproxy.auth.client import (
    AUTH_TYPES,
    Accept,
    Ask,
    Compute,
    Consult,
    Reject,
    Step,
    start,
)
from poolproxy.auth.exchange import MAX_PASSWORD_PAYLOAD, METHODS, method
from poolproxy.auth.ident import Entry
from poolproxy.auth.scram import keys_from, salted_password
from poolproxy.auth.secrets import Md5Secret, PlainSecret, Secret, md5_answer, md5_secret
from tests.auth.exchanges import PASSWORD_FAILED, SECRETS, refused, send_md5, send_plain

from .drive import (
    CHEAP,
    MOCK_KEY,
    NONCE,
    SALT,
    begin,
    initial,
    scram_login,
    scram_secret,
    scramp_client,
    settle,
)


def test_the_methods_are_the_files() -> None:
    """auth_type has exactly these values, each registered once."""
    assert (
        *("any", "cert", "ldap", "md5", "pam", "peer", "plain", "scram-sha-256", "trust"),
    ) == AUTH_TYPES
    with pytest.raises(ValueError, match="registered twice"):
        method("plain")(METHODS["plain"])


# -- pam and ldap ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("auth_type", "words"), [("pam", "PAM"), ("ldap", "LDAP")])
def test_others_judge_the_password(auth_type: str, words: str) -> None:
    """The user need not be known here; what the client has sent is kept for PostgreSQL, if it is right."""
    failed = f"{words} authentication failed"
    for agrees in (True, False, None):
        exchange = begin(auth_type, None)
        assert exchange.first() == Ask(3, b"")
        assert exchange.feed("pä\0".encode()) == Consult("pä")
        step = exchange.consulted(agrees)
        if agrees:
            assert step == Accept(password="pä")
        elif agrees is False:
            assert refused(step) == ("28P01", failed)
        else:
            assert isinstance(step, Reject)
            assert (step.error.message, step.error.reason) == (failed, "auth_service")
    assert "pä" not in repr(Consult("pä")) + repr(Accept(password="pä"))


@pytest.mark.parametrize("auth_type", ["pam", "ldap"])
@pytest.mark.parametrize("body", [b"\0", b"", b"pw", b"p\0w\0", b"x" * 65531 + b"\0"])
def test_nobody_is_asked_about_what_is_no_password(auth_type: str, body: bytes) -> None:
    """Above all not about an empty one: a directory takes it for an anonymous log-in."""
    exchange = begin(auth_type, None)
    exchange.first()
    assert isinstance(exchange.feed(body), Reject)


# -- trust ----------------------------------------------------------------------------------------


def test_trust_lets_known_users_in() -> None:
    """Any entry will do, even one with an empty password; unknown users are refused."""
    for secret in (*SECRETS.values(), PlainSecret("")):
        assert begin("trust", secret).first() == Accept()
    assert refused(begin("trust", None).first()) == ("28000", '"trust" authentication failed')


# -- plain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SECRETS)
def test_plain_compares_with_every_kind_of_secret(kind: str) -> None:
    """The right password is accepted and a wrong one refused, whatever is stored."""
    assert isinstance(send_plain(SECRETS[kind], b"pw"), Accept)
    for wrong in (b"pW", b"pwx", b"p", b"\xff", b"x" * 65530):
        assert refused(send_plain(SECRETS[kind], wrong)) == PASSWORD_FAILED


def test_plain_with_a_scram_secret_derives_off_the_loop_and_gives_keys() -> None:
    """The derivation is handed out, and a password proven against the verifier serves as login."""
    exchange = begin("plain", scram_secret("pw"))
    exchange.first()
    step = exchange.feed(b"pw\0")
    assert isinstance(step, Compute)
    salted = salted_password("pw", SALT, CHEAP)
    assert exchange.computed(salted) == Accept(keys=keys_from(salted))


@settings(max_examples=30)
@given(st.binary(min_size=1, max_size=40).filter(lambda data: b"\0" not in data))
def test_plain_takes_passwords_in_any_encoding(password: bytes) -> None:
    """A stored password that came from undecodable bytes matches those bytes."""
    text = password.decode("utf-8", "surrogateescape")
    assert isinstance(send_plain(PlainSecret(text), password), Accept)
    assert isinstance(send_plain(md5_secret(text, "joe"), password), Accept)


@pytest.mark.parametrize("secret", [None, PlainSecret("")])
def test_plain_never_matches_nothing(secret: Secret | None) -> None:
    """Unknown users and empty stored passwords get the same refusal as a wrong password."""
    assert refused(send_plain(secret, b"pw")) == PASSWORD_FAILED
    wrong, missing = send_plain(PlainSecret("x"), b"pw"), send_plain(secret, b"pw")
    assert isinstance(wrong, Reject)
    assert isinstance(missing, Reject)
    assert wrong.error.hint == missing.error.hint


@pytest.mark.parametrize("auth_type", ["plain", "md5"])
@pytest.mark.parametrize("secret", [None, PlainSecret(""), PlainSecret("pw")])
def test_an_empty_password_is_named(auth_type: str, secret: Secret | None) -> None:
    """The user most likely forgot to give one, so the text says so, known user or not."""
    exchange = begin(auth_type, secret)
    exchange.first()
    assert refused(exchange.feed(b"\0")) == ("28P01", "empty password returned by client")


@pytest.mark.parametrize("auth_type", ["plain", "md5"])
@pytest.mark.parametrize(
    "payload", [b"", b"pw", b"pw\0\0", b"pw\0x", b"\0pw\0", b"x" * MAX_PASSWORD_PAYLOAD + b"\0"]
)
def test_a_malformed_password_message_is_refused(auth_type: str, payload: bytes) -> None:
    """The body must be one string with its NUL, of bounded size."""
    exchange = begin(auth_type, PlainSecret("pw"))
    exchange.first()
    assert refused(exchange.feed(payload)) == ("08P01", "failed to parse packet")


# -- md5 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "md5"])
def test_md5_compares_with_plain_and_md5_secrets(kind: str) -> None:
    """The salted hash is checked against either kind; a wrong password or user fails."""
    assert send_md5(SECRETS[kind], "pw") == Accept()
    assert refused(send_md5(SECRETS[kind], "no")) == PASSWORD_FAILED
    assert refused(send_md5(SECRETS[kind], "pw", user="ann")) == PASSWORD_FAILED


@pytest.mark.parametrize("secret", [None, PlainSecret("")])
def test_md5_never_matches_nothing(secret: Secret | None) -> None:
    """Unknown users and empty stored passwords are asked and refused like others."""
    assert refused(send_md5(secret, "")) == PASSWORD_FAILED


def test_md5_wants_the_whole_answer() -> None:
    """The stored hash, the unsalted hash or the plain password are no answer."""
    answer = md5_answer(md5_secret("pw", "joe"), b"\1\2\3\4")
    secret = SECRETS["md5"]
    assert isinstance(secret, Md5Secret)
    for payload in (b"pw", secret.hash.encode(), answer[:-1], answer[3:], answer.upper(), b"\xff"):
        exchange = begin("md5", secret)
        exchange.first()
        assert refused(exchange.feed(payload + b"\0")) == PASSWORD_FAILED


def test_md5_switches_to_scram_for_a_scram_secret() -> None:
    """As in PgBouncer, such a user logs in by SCRAM although auth_type is md5."""
    exchange = begin("md5", scram_secret("pw"))
    assert isinstance(scram_login(exchange, "pw"), Accept)


# -- anything at all ------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(
            b"\0",
            b",",
            b"=",
            b"n,,",
            b"y,,",
            b"p=tls-server-end-point,,",
            b"n=,",
            b"r=",
            b"c=biws,",
        ),
        *(b"a" * 24, NONCE.encode(), b"p=" + b"A" * 43 + b"=", b"md5" + b"0" * 32, b"e=x", b"m=x,"),
        *(
            b"SCRAM-SHA-256\0",
            b"SCRAM-SHA-256-PLUS\0",
            b"\xff\xfe",
            b"\0\0\0\x1d",
            b"\xff\xff\xff\xff",
        ),
        b"\x7f\xff\xff\xff",
    ]
)
BODIES = st.one_of(
    st.lists(PIECES, max_size=8).map(b"".join),
    st.lists(PIECES, max_size=6).map(b"".join).map(initial),
    st.binary(max_size=64),
    st.just(initial(b"n,,n=,r=" + b"c" * 24)),
    st.integers(1, 3).map(lambda n: b"x" * (MAX_PASSWORD_PAYLOAD + n)),
)


@settings(max_examples=300)
@given(
    st.sampled_from(AUTH_TYPES),
    st.sampled_from([None, PlainSecret(""), *SECRETS.values()]),
    st.lists(BODIES, min_size=1, max_size=4),
    st.booleans(),
)
def test_nothing_that_a_client_sends_breaks_an_exchange(
    auth_type: str, secret: Secret | None, bodies: list[bytes], agrees: bool
) -> None:
    """Every answer is a step, an exchange ends, and nobody gets in without a password or a service's word."""
    exchange = begin(auth_type, secret)
    step = exchange.first()
    for body in bodies:
        if not isinstance(step, Ask):
            break
        step = settle(exchange, exchange.feed(body))
        if isinstance(step, Consult):
            step = exchange.consulted(agrees)
    if isinstance(step, Accept):
        known = auth_type == "any" or (auth_type == "trust" and secret is not None)
        assert known or (auth_type in ("pam", "ldap") and agrees)
    elif isinstance(step, Reject):
        assert step.error.hint
    else:
        assert len(bodies) < 2, "no exchange has more than two questions"


# -- order of calls, bounds of arguments ----------------------------------------------------------


@pytest.mark.parametrize(
    ("auth_type", "secret", "payload"),
    [
        ("trust", PlainSecret("x"), None),
        ("plain", PlainSecret("x"), b"x\0"),
        ("plain", None, b"x\0"),
        ("scram-sha-256", None, b"junk"),
    ],
)
def test_a_finished_exchange_takes_nothing(
    auth_type: str, secret: Secret | None, payload: bytes | None
) -> None:
    """After Accept or Reject every call is an error: no second try on one exchange."""
    exchange = begin(auth_type, secret)
    exchange.first()
    if payload is not None:
        exchange.feed(payload)
    for call in (exchange.first, lambda: exchange.feed(b"x\0"), lambda: exchange.computed(b"x")):
        with pytest.raises(RuntimeError):
            call()


def test_calls_out_of_order_are_the_callers_bug() -> None:
    """Feeding before first, computing unasked, or feeding while computing raise."""
    exchange = begin("plain", scram_secret("pw"))
    with pytest.raises(RuntimeError):
        exchange.feed(b"pw\0")
    exchange.first()
    with pytest.raises(RuntimeError):
        exchange.computed(b"x")
    exchange.feed(b"pw\0")
    with pytest.raises(RuntimeError):
        exchange.feed(b"pw\0")


def test_weak_arguments_are_refused() -> None:
    """A forgotten salt or key must not go unnoticed, nor an unknown method."""
    good = {"salt": b"1234", "nonce": NONCE, "mock_key": MOCK_KEY}
    for bad, text in (({"salt": b"123"}, "salt"), ({"mock_key": b""}, "mock_key")):
        with pytest.raises(ValueError, match=text):
            start("plain", "joe", None, **{**good, **bad})
    with pytest.raises(ValueError, match=r"unknown auth_type 'hba'.*plain"):
        start("hba", "joe", None, **good)


def test_scramp_refuses_a_pooler_that_does_not_know_the_secret() -> None:
    """Our signature is checked by the client: the drive helper would notice a wrong one."""
    client, exchange = scramp_client("pw"), begin("scram-sha-256", scram_secret("pw"))
    exchange.first()
    step = exchange.feed(initial(client.get_client_first().encode()))
    assert isinstance(step, Ask)
    client.set_server_first(step.data.decode())
    final = exchange.feed(client.get_client_final().encode())
    assert isinstance(final, Accept)
    assert final.final is not None
    with pytest.raises(ScramException, match="server signature"):
        client.set_server_final("v=" + "A" * 43 + "=")


# -- peer and cert --------------------------------------------------------------------------------


def by_name(
    method: str, secret: Secret | None, names: tuple[str, ...], entries: tuple[Entry, ...] | None
) -> Step:
    login = {"salt": b"1234", "nonce": NONCE, "mock_key": MOCK_KEY}
    return start(method, "joe", secret, names=names, map=entries, **login).first()


@pytest.mark.parametrize(
    ("method", "text"),
    [("peer", "unix socket login rejected"), ("cert", "certificate authentication failed")],
)
def test_others_say_who_the_client_is(method: str, text: str) -> None:
    """A known user of the same name, or of a line in the map; nobody without a name of the kind."""
    secret = PlainSecret("")
    assert by_name(method, secret, ("joe",), None) == Accept()
    assert by_name(method, secret, ("boss",), (Entry("boss", None),)) == Accept()
    for bad in (
        by_name(method, None, ("joe",), None),
        by_name(method, secret, ("bob",), None),
        by_name(method, secret, (), None),
        by_name(method, secret, ("joe",), (Entry("boss", None),)),
        by_name(method, secret, ("joe",), ()),
    ):
        assert refused(bad) == ("28000", text)


def test_any_asks_nothing() -> None:
    """Everybody is let in, unknown users too."""
    assert begin("any", None).first() == Accept()
