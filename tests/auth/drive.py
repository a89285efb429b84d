"""What the tests of both exchanges share: a client's messages, and scramp as the other side."""

from __future__ import annotations

import struct

from scramp import ScramClient, ScramMechanism

from poolproxy.auth.client import ClientExchange, Compute, Step, start
from poolproxy.auth.scram import make_secret
from poolproxy.auth.secrets import ScramSecret, Secret

SALT = b"0123456789abcdef"
NONCE = "our-half-of-the-nonce-00"
MOCK_KEY = b"m" * 32
CHEAP = 4096  # the fewest rounds that scramp takes


def begin(auth_type: str, secret: Secret | None, *, user: str = "joe") -> ClientExchange:
    return start(
        auth_type, user, secret, salt=b"\1\2\3\4", nonce=NONCE, mock_key=MOCK_KEY, iterations=CHEAP
    )


def initial(data: bytes, mechanism: bytes = b"SCRAM-SHA-256") -> bytes:
    """The body of a SASLInitialResponse."""
    return mechanism + b"\0" + struct.pack("!i", len(data)) + data


def settle(exchange: ClientExchange, step: Step) -> Step:
    """Run the derivation that ``step`` may ask for."""
    if isinstance(step, Compute):
        return exchange.computed(step.request.derive())
    return step


def scram_secret(password: str) -> ScramSecret:
    return make_secret(password, SALT, CHEAP)


def scramp_client(password: str) -> ScramClient:
    return ScramClient(["SCRAM-SHA-256"], "ignored", password, c_nonce="theclientsnonce")


def scram_login(exchange: ClientExchange, password: str) -> Step:
    """Log in with scramp; check our signature if we accept."""
    client = scramp_client(password)
    exchange.first()
    step = settle(exchange, exchange.feed(initial(client.get_client_first().encode())))
    client.set_server_first(step.data.decode())
    step = exchange.feed(client.get_client_final().encode())
    if hasattr(step, "final"):
        client.set_server_final(step.final[1].decode())
    return step


def scramp_server(password: str):
    """A server that knows ``password`` and checks what it is fed."""
    mechanism = ScramMechanism("SCRAM-SHA-256")
    info = mechanism.make_auth_info(password, iteration_count=CHEAP, salt=SALT)
    return mechanism.make_server(lambda _user: info, s_nonce="theserversnonce")
