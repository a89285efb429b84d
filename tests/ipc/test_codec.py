"""Messages to bytes and back: derived from the registry, so a new message is covered at once."""

from __future__ import annotations

import types
import typing
from functools import reduce
from operator import or_

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolproxy.ipc import messages
from poolproxy.ipc.codec import IpcError, decode, encode, expected_fds, schema
from poolproxy.ipc.messages import FDS, MANY, REGISTRY, Handoff, Message, Permit, PoolKey

# A message is made of the same few types as the others.
FEW = settings(max_examples=settings.default.max_examples // 5, deadline=None)
CLASSES = sorted(REGISTRY.values(), key=lambda cls: cls.__name__)
LEAVES = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(st.characters(exclude_categories=["Cs"])),
    bytes: st.binary(),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(kind: type) -> st.SearchStrategy[object]:
    """Anything of a field's type."""
    if kind in LEAVES:
        return LEAVES[kind]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return st.one_of(*map(values, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return st.lists(values(typing.get_args(kind)[0]), max_size=3).map(tuple)
    if isinstance(kind, types.UnionType):
        return reduce(or_, (values(one) for one in typing.get_args(kind)))
    hints = typing.get_type_hints(kind)
    return st.builds(
        kind, **{field.name: values(hints[field.name]) for field in attrs.fields(kind)}
    )


@pytest.mark.parametrize("cls", CLASSES)
@FEW
@given(data=st.data())
def test_every_message_round_trips(cls: type, data: st.DataObject) -> None:
    """Any values of the declared types arrive as they were sent."""
    sent = typing.cast(Message, data.draw(values(cls)))
    assert decode(encode(sent)) == sent


@pytest.mark.parametrize("cls", CLASSES)
@FEW
@given(data=st.data())
def test_a_cut_message_is_an_error_wherever_it_is_cut(cls: type, data: st.DataObject) -> None:
    """Each prefix, and bytes too many, raise IpcError: never half a message."""
    whole = encode(typing.cast(Message, data.draw(values(cls))))
    for size in range(len(whole)):
        with pytest.raises(IpcError):
            decode(whole[:size])
    with pytest.raises(IpcError):
        decode(whole + b"\0")


@given(st.binary(max_size=60))
def test_garbage_is_an_error_or_a_message(data: bytes) -> None:
    """Nothing but IpcError comes out of bytes that nobody encoded."""
    try:
        message = decode(data)
    except IpcError:
        return
    assert type(message) in FDS


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff", b"\xffabc"])
def test_an_unknown_kind_is_named(data: bytes) -> None:
    """The error has the number."""
    with pytest.raises(IpcError, match="unknown message kind"):
        decode(data)


def test_a_field_of_the_wrong_type_is_an_error() -> None:
    """The message's name is in the text."""
    wrong = encode(Permit("seven", PoolKey("a", "b"), True))  # type: ignore[arg-type]
    with pytest.raises(IpcError, match="bad Permit message"):
        decode(wrong)


def test_the_union_names_every_message() -> None:
    """Whoever matches on Message has seen all of them."""
    assert reduce(or_, REGISTRY.values()) == Message
    assert all(1 <= kind <= 255 for kind in REGISTRY)


def test_a_number_is_given_once() -> None:
    """Two messages under one number would be taken for each other."""
    with pytest.raises(ValueError, match="kind 3 is taken by Permit"):
        messages.message(3)(type("Another", (), {}))


@pytest.mark.parametrize("cls", CLASSES)
def test_descriptors_are_declared(cls: type) -> None:
    """None, some, or one for each item of the first field, which is then a tuple."""
    first = next(iter(typing.get_type_hints(cls).values()))
    assert FDS[cls] >= 0 or (FDS[cls] == MANY and typing.get_origin(first) is tuple)
    assert expected_fds(Handoff(())) == 0


def test_the_schema_is_stable_and_follows_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal in acceptor and worker of one version, different when any class changes."""
    before = schema()
    assert schema() == before
    monkeypatch.setitem(FDS, Permit, 1)
    assert schema() != before
    monkeypatch.undo()

    @attrs.frozen
    class PoolKey:
        database: str
        user: str
        role: str

    monkeypatch.setattr(messages, "PoolKey", PoolKey)
    assert schema() != before
