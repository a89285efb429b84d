"""Whole conversations through Frontend and Backend, held against a model of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.wire.backend import Backend
from poolproxy.wire.build import parameter_status
from poolproxy.wire.frontend import Frontend
from tests.system.protocol_client import message
from tests.wire.postgres_model import ALL_BATCHES, Batch, Model

MAX_PACKET = 1 << 20
UNASKED = {
    "N": message("N", b"SNOTICE\0\0"),
    "A": message("A", b"\0\0\0\1channel\0Zpayload\0"),
    "S": parameter_status("TimeZone", "UTC"),
}
STATE = (
    "owed",
    "status",
    "left",
    "head",
    "skipping",
    "client_copies",
    "tainted",
    "errors",
    "reports",
)
BODIES = {"D": b"\0\1\0\0\0\1Z", "d": b"Z\0\0\0\5I", "E": b"SERROR\0\0", "C": b"SELECT 1\0"}


@attrs.define
class Conversation:
    """Both halves around the model, with the truth about when the server is free.

    ``asked_until``: where in all answers the last one that is owed ends.
    """

    front: Frontend = attrs.Factory(Frontend)
    back: Backend = attrs.Factory(Backend)
    model: Model = attrs.Factory(Model)
    on_the_way: bytearray = attrs.Factory(bytearray)
    forwarded: bytearray = attrs.Factory(bytearray)
    answered: bytearray = attrs.Factory(bytearray)
    delivered: bytearray = attrs.Factory(bytearray)
    asked_until: int = 0

    def client_sends(self, data: bytes, unasked: str = "") -> None:
        """Forward a chunk; the server works on what is whole of it, and its answer sets out."""
        forward, types, _ = self.front.feed(data, MAX_PACKET)
        if types:
            self.back.owe(types)
        self.forwarded += forward
        for code, status in self.model.feed(forward):
            body = status.encode() if code == "Z" else BODIES.get(code, b"")
            self.on_the_way += message(code, body)
            self.asked_until = len(self.answered) + len(self.on_the_way)
        self.on_the_way += UNASKED.get(unasked, b"")

    def server_sends(self, size: int) -> None:
        """Deliver the next ``size`` bytes of the answers."""
        chunk = bytes(self.on_the_way[:size])
        del self.on_the_way[:size]
        if chunk:
            self.answered += chunk
            forward, at_rest = self.back.feed(chunk)
            self.delivered += forward
            assert at_rest == self.back.at_rest

    def check(self) -> None:
        """The Backend says what is true. A tainted one's server is closed, so nothing hangs on it."""
        back = self.back
        free = self.model.quiet and len(self.answered) >= self.asked_until
        if back.at_rest:
            assert free or back.tainted
        else:
            half_way = self.front.left or back.left or back.head
            assert not free or half_way or back.client_copies or back.tainted


@pytest.mark.parametrize("batch", ALL_BATCHES, ids=str)
def test_every_batch_is_followed_to_its_end(batch: Batch) -> None:
    """After a batch that was sent blindly in one piece the Backend knows whether the server is free."""
    talk = Conversation()
    talk.client_sends(b"".join(batch.messages))
    talk.server_sends(len(talk.on_the_way))
    assert talk.back.at_rest == talk.model.quiet
    assert talk.delivered == talk.answered


def _cut(draw: Callable[[st.SearchStrategy[int]], int], data: bytes) -> list[bytes]:
    pieces = []
    while data:
        size = draw(st.integers(1, len(data)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@given(st.data())
def test_any_conversation_in_any_chunks_is_followed_exactly(data: st.DataObject) -> None:
    """Whatever is pipelined, cut and interleaved: at_rest is told when PostgreSQL is free, never before,
    and every byte is forwarded in order.
    """
    chosen = data.draw(st.lists(st.sampled_from(ALL_BATCHES), min_size=1, max_size=4))
    sent = b"".join(data for batch in chosen for data in batch.messages)
    talk = Conversation()
    for piece in _cut(data.draw, sent):
        talk.client_sends(piece, data.draw(st.sampled_from(["", "", "N", "A", "S"])))
        talk.server_sends(data.draw(st.integers(0, 40)))
        talk.check()
    while talk.on_the_way:
        talk.server_sends(data.draw(st.integers(1, 40)))
        talk.check()
    assert talk.forwarded == sent
    assert talk.delivered == talk.answered
    assert talk.back.tainted or talk.back.at_rest == talk.model.quiet


@given(st.data())
def test_chunks_make_no_difference(data: st.DataObject) -> None:
    """The same conversation, whole and cut anywhere, leaves the same state and forwards the same bytes."""
    chosen = data.draw(st.lists(st.sampled_from(ALL_BATCHES), min_size=1, max_size=3))
    whole, cut = Conversation(), Conversation()
    for batch in chosen:
        sent = b"".join(batch.messages)
        whole.client_sends(sent)
        whole.server_sends(len(whole.on_the_way))
        for piece in _cut(data.draw, sent):
            cut.client_sends(piece)
        while cut.on_the_way:
            cut.server_sends(data.draw(st.integers(1, 30)))
    for name in STATE:
        assert getattr(whole.back, name) == getattr(cut.back, name), name
    assert whole.forwarded == cut.forwarded
    assert whole.delivered == cut.delivered
