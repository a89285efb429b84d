"""A client of the pool: what it sends when it has its turn, and how what it gets is compared."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import attrs

from tests.differential.direct import Expected
from tests.differential.masks import Mask, Moment
from tests.differential.script import Life, Who
from tests.system.protocol_client import Eof, RawClient, Reply

TAG = re.compile(rb"<\d+\.\d+>")


class Difference(AssertionError):
    """A client got something else than from PostgreSQL, or nothing."""


@attrs.define(eq=False)
class Conversation:
    """A life, from its connection to its end. ``over``: it has ended; ``cut``: before its time.

    ``masks``: what may come, and ``used`` how often it did. ``blocked``: the socket takes no more now.
    ``closing``: the pooler has said that it will close the connection. ``orphaned``: the worker process that
    had the connection has been killed, so that it may end without a word.
    """

    mode: str
    who: Who
    life: Life
    expected: Expected
    client: RawClient
    masks: tuple[Mask, ...]
    used: Counter[str]
    cancelled: bool = False
    cut: bool = False
    over: bool = False
    welcome: bool = False
    blocked: bool = False
    closing: bool = False
    orphaned: bool = False
    seen: int = 0
    status: str = "I"
    block: bool = False
    batch: int = 0
    parts: list[bytes] = attrs.Factory(list)

    # -- sending ----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether it has something to do now."""
        if self.over or self.closing or self.blocked or not self.welcome:
            return False
        return bool(self.parts) or self.seen >= self._mark()

    def _mark(self) -> int:
        """How many answers must have come before the next batch, or the end."""
        marks = self.expected.marks
        if self.batch >= len(marks):
            return marks[-1] if marks else 0
        return marks[self.batch - 1] if self.batch and not self.life.blind else 0

    def _mark_before(self) -> int:
        """How many answers it has waited for before the last batch that it has sent."""
        waits = self.batch > 1 and not self.life.blind
        return self.expected.marks[self.batch - 2] if waits else 0

    @property
    def _unfinished(self) -> bool:
        """Whether it has begun what it leaves unfinished; what it gets then is nobody's business."""
        return self.batch > len(self.expected.marks)

    def turn(self) -> None:
        """Send the next part, or leave."""
        batches = self.life.batches
        if not self.parts and self.batch < len(batches):
            self.parts = self._parts(self.batch)
            self.batch += 1
        if self.parts:
            self._send()
        else:
            self._leave()

    def _parts(self, index: int) -> list[bytes]:
        batch = self.life.batches[index]
        data = self.who.encode(batch.messages)
        if index == len(self.life.batches) - 1:
            data = data[: len(data) * self.life.sent // 100]
        places = [0, *(len(data) * percent // 100 for percent in batch.cuts), len(data)]
        return [data[a:b] for a, b in pairwise(places) if a < b]

    def _send(self) -> None:
        part = self.parts.pop(0)
        try:
            sent = self.client.sock.send(part)
        except BlockingIOError:
            sent = 0
        except (BrokenPipeError, ConnectionResetError):
            return  # there is a reason to be read
        if sent < len(part):
            self.blocked = True
            self.parts.insert(0, part[sent:])

    def _leave(self) -> None:
        self.over = True
        if self.life.end == "reset":
            self.client.reset()
        elif self.life.end == "close":
            self.client.close()
        else:
            self.client.leave()

    def cut_off(self) -> None:
        """The client goes at once; nothing that it has begun is compared any more."""
        self.cut = self.over = True
        self.client.reset()

    # -- receiving --------------------------------------------------------------------------------

    def receive(self) -> None:
        """Compare all that has come. Raises Difference."""
        try:
            replies = self.client.read_waiting()
        except Eof:
            if not (self.closing or self._unfinished or self.orphaned):
                raise self._difference(None) from None
            self.cut_off()
            return
        for reply in replies:
            # ParameterStatus is only compared: there is a mask by which another's can come.
            tags = {tag.decode() for tag in TAG.findall(reply.body) if reply.code != "S"}
            if tags - {self.who.tag}:
                raise self._difference(reply)
            if not self.welcome:
                self._greeted(reply)
            elif not self.over:
                self._answered(reply)

    def _greeted(self, reply: Reply) -> None:
        if reply.code == "E":
            raise self._difference(reply)
        if reply.code == "Z":
            self.welcome = True
            theirs, ours = dict(self.expected.parameters), self.client.parameters
            if theirs != ours:
                raise Difference(f"{self.who}: reported at log-in: {ours}, not {theirs}")

    def _answered(self, reply: Reply) -> None:
        answers = self.expected.answers
        want = answers[self.seen] if self.seen < len(answers) else None
        if want is None and self._unfinished:
            return
        if want != reply or self.closing:
            self._unlike(want, reply)
        self.seen += 1
        if reply.code == "Z":
            self.status = reply.body.decode()
            self.block = self.block or self.status != "I"

    def _unlike(self, want: Reply | None, got: Reply) -> None:
        told = self.expected.answers[: self.seen]
        before = next((one for one in reversed(told) if one.code != "S"), None)
        parameters = bool(self.life.parameters)
        then = next(iter(self.expected.answers[self.seen + 1 :]), None)
        moment = Moment(
            self.mode,
            before,
            self.status,
            parameters,
            self.block,
            want,
            got,
            then,
            self.cancelled,
            told[self._mark_before() :],
        )
        mask = next((m for m in self.masks if m.fits_in(self.mode) and m.fits(moment)), None)
        if mask is None:
            if self.closing:
                return  # behind a FATAL error nothing counts
            raise self._difference(got)
        self.used[mask.name] += 1
        if mask.closed:
            self.closing = True
        elif mask.ends:
            self.cut_off()

    def _difference(self, got: Reply | None) -> Difference:
        answers = self.expected.answers
        want = answers[self.seen] if self.seen < len(answers) else None
        told = answers[max(0, self.seen - 3) : self.seen]
        return Difference(f"{self.state()}\nexpected: {want}\ngot: {got}\nbefore: {told}")

    def state(self) -> str:
        """For who must find out what has happened."""
        asked = self.life.batches[self.batch - 1] if self.batch else "nothing"
        return (
            f"client {self.who.client}, life {self.who.life}, batch {self.batch - 1}:"
            f" {self.seen} answers of {len(self.expected.answers)}; last sent: {asked}"
        )
