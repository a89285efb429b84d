"""Messages to bytes and back: one byte of kind, then MessagePack of the attrs class.

msgspec checks every field's type on decoding, so a malformed message raises :class:`IpcError`
here and can't travel further in.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import attrs
import msgspec

from poolproxy.ipc import messages
from poolproxy.ipc.messages import FDS, MANY, REGISTRY, Message


class IpcError(Exception):
    """A message that can't be understood: the two processes do not speak the same language."""


_KINDS = {cls: kind for kind, cls in REGISTRY.items()}
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(cls) for kind, cls in REGISTRY.items()
}


def encode(message: Message) -> bytes:
    """The bytes of one message; its descriptors travel beside it."""
    return bytes((_KINDS[type(message)],)) + _ENCODER.encode(message)


def decode(data: bytes) -> Message:
    """The message in ``data``; raises IpcError for an unknown kind or a body that does not fit it."""
    decoder = _DECODERS.get(data[0]) if data else None
    if decoder is None:
        raise IpcError(f"unknown message kind {data[:1].hex() or '(empty)'}")
    try:
        return cast(Message, decoder.decode(memoryview(data)[1:]))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IpcError(f"bad {REGISTRY[data[0]].__name__} message: {error}") from error


def expected_fds(message: Message) -> int:
    """How many descriptors belong to ``message``."""
    declared = FDS[type(message)]
    if declared == MANY:
        return len(getattr(message, attrs.fields(type(message))[0].name))
    return declared


def schema() -> str:
    """A fingerprint of all message classes: acceptor and worker must agree on it before they talk.

    It differs when the package was upgraded on disk under a running acceptor.
    """
    lines = [f"{kind} {FDS[cls]}" for kind, cls in sorted(REGISTRY.items())]
    for name, cls in sorted(vars(messages).items()):
        if isinstance(cls, type) and attrs.has(cls):
            fields = ", ".join(f"{field.name}: {field.type}" for field in attrs.fields(cls))
            lines.append(f"{name}({fields})")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
