"""Both SCRAM roles against scramp, against each other, and against hostile peers."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramException

from poolproxy.auth.scram import (
    MAX_MESSAGE_BYTES,
    MAX_NONCE_CHARS,
    ScramError,
    ScramKeys,
    WrongProofError,
    hmac_sha256,
    keys_from,
    make_secret,
    mock_salt,
    mock_secret,
    salted_password,
    stored_key,
    xor,
)
from poolproxy.auth.scram_client import ScramClient
from poolproxy.auth.scram_server import ScramServer
from poolproxy.auth.secrets import MAX_ITERATIONS, MAX_SALT_BYTES

from .drive import CHEAP, NONCE, SALT, scram_secret, scramp_client, scramp_server

FIRST = b"n,,n=*,r=abc"


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def challenged(first: bytes = FIRST, password: str = "pw") -> ScramServer:
    server = ScramServer(NONCE)
    server.read_first(first)
    server.challenge(scram_secret(password))
    return server


def final_for(server_first: bytes, password: str = "pw") -> bytes:
    """A right client-final to any answer to FIRST, made by our own client."""
    client = ScramClient(password, "abc")
    request = client.read_first(server_first)
    assert request is not None
    return client.final(keys_from(request.derive()))


def test_the_rfc_7677_example() -> None:
    """The published conversation comes out byte by byte, seen from both sides."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    client = ScramClient("pencil", "rOprNGfwEbeRWgbNEkqO")
    client._first_bare = "n=user,r=rOprNGfwEbeRWgbNEkqO"  # ours sends no real name
    server = ScramServer("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    server.read_first(client.first())
    server_first = server.challenge(make_secret("pencil", salt, 4096))
    assert server_first == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    request = client.read_first(server_first)
    assert request is not None
    final = client.final(keys_from(request.derive()))
    assert final.endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    proven = server.read_final(final)
    assert proven.final == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    client.verify(proven.final)


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec="utf-8", blacklist_characters="\0"), min_size=1))
def test_both_roles_agree_on_any_password(password: str) -> None:
    """Client and server prove themselves to each other whatever the password, and pass keys on."""
    secret = make_secret(password, SALT, 2)
    client, server = ScramClient(password, "c" * 24), ScramServer(NONCE)
    server.read_first(client.first())
    request = client.read_first(server.challenge(secret))
    assert request is not None
    proven = server.read_final(client.final(keys_from(request.derive())))
    client.verify(proven.final)
    assert proven.keys == keys_from(salted_password(password, SALT, 2))


@pytest.mark.parametrize("password", ["pw", "\u2168", "pa\u00a0ss", "密码", "a" * 2000])
def test_our_server_accepts_scramp(password: str) -> None:
    """An independent client logs in to ours and believes our signature."""
    client, server = scramp_client(password), ScramServer(NONCE)
    server.read_first(client.get_client_first().encode())
    client.set_server_first(server.challenge(scram_secret(password)).decode())
    proven = server.read_final(client.get_client_final().encode())
    client.set_server_final(proven.final.decode())


@pytest.mark.parametrize("password", ["pw", "\u2168", "pa\u00a0ss", "密码", "a" * 2000])
def test_our_client_is_accepted_by_scramp(password: str) -> None:
    """Ours logs in to an independent server, by password and then by the keys alone."""
    keys = keys_from(salted_password(password, SALT, CHEAP))
    for credential in (password, keys):
        client, server = ScramClient(credential, NONCE), scramp_server(password)
        server.set_client_first(client.first().decode())
        request = client.read_first(server.get_server_first().encode())
        assert (request is None) == isinstance(credential, ScramKeys)
        final = client.final(request and keys_from(request.derive()))
        server.set_client_final(final.decode())
        client.verify(server.get_server_final().encode())


def test_scramp_refuses_our_wrong_password() -> None:
    """The oracle does check: a wrong password or wrong keys fail with it."""
    client, server = ScramClient("wrong", NONCE), scramp_server("right")
    server.set_client_first(client.first().decode())
    request = client.read_first(server.get_server_first().encode())
    assert request is not None
    with pytest.raises(ScramException):
        server.set_client_final(client.final(keys_from(request.derive())).decode())


# -- our server and bad clients -------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"n,,n=,r=abc", b"y,,n=x,r=abc", b"n,,n=\xff\xfe,r=abc,x=1,y="])
def test_sound_first_messages_are_taken(first: bytes) -> None:
    """Both binding flags, names in any encoding and extensions are accepted."""
    server = ScramServer(NONCE)
    server.read_first(first)
    answer = server.challenge(scram_secret("pw"))
    assert answer == b"r=abc" + NONCE.encode() + b",s=" + b64(SALT) + b",i=4096"


def _accepts(server: ScramServer, final: bytes) -> bool:
    try:
        server.read_final(final)
    except ScramError:
        return False
    return True


def test_the_flag_y_is_bound_and_extensions_are_covered_by_the_proof() -> None:
    """The proof covers the bytes as they were sent, header and extensions included."""
    first = b"y,,n=j\xf6e,r=abc,x=1"
    server = challenged(first)
    keys = keys_from(salted_password("pw", SALT, CHEAP))
    without_proof = f"c=eSws,r=abc{NONCE},x=ext".encode()
    server_first = b"r=abc" + NONCE.encode() + b",s=" + b64(SALT) + b",i=4096"
    transcript = b",".join([b"n=j\xf6e,r=abc,x=1", server_first, without_proof])
    proof = xor(keys.client_key, hmac_sha256(stored_key(keys.client_key), transcript))
    assert server.read_final(without_proof + b",p=" + b64(proof)).keys == keys


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=,r=abc",
        b"p=tls-server-end-point,,n=,r=abc",
        b"n,a=admin,n=,r=abc",
        b"n,b=,n=,r=abc",
        b"n,,m=ext,n=,r=abc",
        b"n,,r=abc",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,n=,r=a\x7fc",
        b"n,,n=,r=a c",
        b"n,,n=,r=\xc3\xa9",
        b"n,,n=,r=abc,",
        b"n,,n=,r=abc,1=x",
        b"n,,n=,r=abc,xx",
        b"n,,n=,r=abc\0",
        b"n,,n=,r=" + b"a" * (MAX_NONCE_CHARS + 1),
        b"n,,n=" + b"a" * MAX_MESSAGE_BYTES + b",r=abc",
    ],
)
def test_bad_first_messages_are_refused(first: bytes) -> None:
    """Each malformed, unsupported or oversize client-first is a ScramError."""
    with pytest.raises(ScramError):
        ScramServer(NONCE).read_first(first)


def test_bad_final_messages_are_refused() -> None:
    """Whatever is changed in a right client-final, it fails."""
    good = final_for(challenged()._first.encode())
    nonce = b"abc" + NONCE.encode()
    proof = good.rpartition(b",p=")[2]
    assert _accepts(challenged(), good)
    for bad in [
        b"",
        b"p=" + proof,
        good.replace(b"c=biws", b"c=eSws"),
        good.replace(b"c=biws", b"c="),
        good.replace(b"c=biws,", b""),
        good.replace(nonce, nonce + b"x"),
        good.replace(nonce, nonce[:-1]),
        good.replace(nonce, b"xbc" + NONCE.encode()),
        good.replace(b",p=", b",x,p="),
        good.partition(b",p=")[0],
        good[:-4],
        good + b",x=1",
        good.replace(proof, b"!" + proof[1:]),
        good.replace(proof, b64(b"x" * 31)),
        good.replace(proof, b64(b"x" * 32)),
        good.replace(proof, b""),
        good + b"\0",
        good + b"a" * MAX_MESSAGE_BYTES,
    ]:
        assert not _accepts(challenged(), bad), bad


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_crash_the_server(data: bytes) -> None:
    """Garbage in either message is a ScramError and nothing else."""
    for call in (ScramServer(NONCE).read_first, challenged().read_final):
        with pytest.raises(ScramError):
            call(data)


def test_a_wrong_password_is_told_from_a_malformed_message() -> None:
    """Only a sound message with a proof that doesn't fit is a WrongProofError."""
    server = challenged(password="right")
    with pytest.raises(WrongProofError):
        server.read_final(final_for(server._first.encode(), "wrong"))


def test_comparisons_take_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proof, nonce and signature are compared by hmac.compare_digest only."""
    compared: list[tuple[bytes, bytes]] = []

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr("poolproxy.auth.secrets.hmac.compare_digest", spy)
    server = challenged()
    client = ScramClient("pw", "abc")
    request = client.read_first(server._first.encode())
    assert request is not None
    proven = server.read_final(client.final(keys_from(request.derive())))
    client.verify(proven.final)
    secret = scram_secret("pw")
    assert ("abc" + NONCE).encode() in {left for left, _ in compared}
    assert (secret.stored_key, secret.stored_key) in compared
    assert b64(compared[-1][0]) == proven.final[2:]


def test_mock_secrets_are_stable_and_differ_between_users() -> None:
    """The salt shown for a user stays the same under one key, and tells nothing across users."""
    one = mock_secret(b"k" * 32, "joe", 4096)
    assert one == mock_secret(b"k" * 32, "joe", 4096)
    assert one.salt == mock_salt(b"k" * 32, "joe")
    assert len(one.salt) == 16
    others = [mock_secret(b"k" * 32, "ann", 4096), mock_secret(b"l" * 32, "joe", 4096)]
    assert len({secret.salt for secret in [one, *others]}) == 3


# -- our client and hostile servers ---------------------------------------------------------------


def first(
    nonce: bytes = b"abcdef", salt: bytes = b64(b"salt"), iterations: bytes = b"4096"
) -> bytes:
    return b"r=" + nonce + b",s=" + salt + b",i=" + iterations


@pytest.mark.parametrize("iterations", [b"1", b"4096", str(MAX_ITERATIONS).encode()])
def test_sound_server_first(iterations: bytes) -> None:
    """The request repeats what the server asks for; extensions are ignored."""
    request = ScramClient("pw", "abc").read_first(first(iterations=iterations) + b",x=ext")
    assert request is not None
    assert (request.password, request.salt) == ("pw", b"salt")
    assert request.iterations == int(iterations)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"e=other-error",
        first(nonce=b"xyzdef"),
        first(nonce=b"abc"),
        first(nonce=b"ab"),
        first(nonce=b""),
        first(nonce=b"abcd\x01"),
        first(nonce=b"abc\xc3\xa9"),
        first(nonce=b"abc" + b"x" * MAX_NONCE_CHARS),
        first(salt=b""),
        first(salt=b"!!!!"),
        first(salt=b"\xc3\xa9"),
        first(salt=b64(b"x" * (MAX_SALT_BYTES + 1))),
        first(iterations=b""),
        first(iterations=b"0"),
        first(iterations=b"-1"),
        first(iterations=b"+1"),
        first(iterations=b"1_0"),
        first(iterations=b"4096x"),
        first(iterations=b"\xb2"),
        first(iterations=str(MAX_ITERATIONS + 1).encode()),
        first(iterations=b"1000000000"),
        first(iterations=b"9" * 3000),
        b"m=ext," + first(),
        first().partition(b",i=")[0],
        first() + b",",
        first() + b"\0",
        first() + b",x=" + b"y" * MAX_MESSAGE_BYTES,
    ],
)
def test_hostile_server_first_is_refused(message: bytes) -> None:
    """A server can't make us derive with its bounds, replay, or feed us junk; keys or password."""
    for credential in ("pw", ScramKeys(b"c" * 32, b"s" * 32)):
        with pytest.raises(ScramError):
            ScramClient(credential, "abc").read_first(message)


def answered() -> ScramClient:
    client = ScramClient("pw", "abc")
    client.read_first(first())
    client.final(keys_from(salted_password("pw", b"salt", 4096)))
    return client


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"v=" + b64(b"x" * 32), WrongProofError),
        (b"v=" + b64(b"x"), WrongProofError),
        (b"v=", ScramError),
        (b"v=!", ScramError),
        (b"v=\xc3\xa9", ScramError),
        (b"", ScramError),
        (b"x=1", ScramError),
        (b"e=invalid-proof", ScramError),
        (b"v" * (MAX_MESSAGE_BYTES + 1), ScramError),
    ],
)
def test_hostile_server_final_is_refused(message: bytes, error: type[ScramError]) -> None:
    """A missing, malformed or wrong signature never verifies."""
    with pytest.raises(error):
        answered().verify(message)


def test_no_signature_verifies_before_ours_is_known() -> None:
    """An empty expectation must not be matched by anything the server sends."""
    with pytest.raises(ScramError):
        ScramClient("pw", "abc").verify(b"v=" + b64(b"x"))


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_crash_the_client(data: bytes) -> None:
    """Garbage in either message is a ScramError and nothing else."""
    for call in (ScramClient("pw", "abc").read_first, ScramClient("pw", "abc").verify):
        with pytest.raises(ScramError):
            call(data)


@pytest.mark.parametrize("nonce", ["", "a,b", "a b", "é"])
def test_a_bad_nonce_of_ours_is_the_callers_bug(nonce: str) -> None:
    """Nonces that would break the messages are refused when they are given."""
    with pytest.raises(ValueError, match="nonce"):
        ScramServer(nonce)
    with pytest.raises(ValueError, match="nonce"):
        ScramClient("pw", nonce)
