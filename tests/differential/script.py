"""What the clients of a differential test do, as data that prints, shrinks and can be run again.

A message is a tuple of its name and its arguments: ``("Parse", "a", "select $1::text")``. In its texts
``{me}`` stands for the life's tag, which is in every row that the life writes or reads, ``{n}`` for the
client's number, and ``{own}`` for a name that only this life gives to tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from tests.system import protocol_client as build
from tests.system.protocol_client import message, text

Message: TypeAlias = tuple[str | int, ...]


def _values(*values: str) -> tuple[bytes, ...]:
    return tuple(value.encode() for value in values)


SYNC: Message = ("Sync",)
FLUSH: Message = ("Flush",)

MESSAGES: dict[str, Callable[..., bytes]] = {
    "Query": build.query,
    "Parse": build.parse,
    "Bind": lambda portal, name, *values: build.bind(name, *_values(*values), portal=portal),
    "BindLarge": lambda name, letter, size: build.bind(name, letter.encode() * size),
    "Describe": lambda kind, name: build.describe(name, kind),
    "Execute": build.execute,
    "Close": lambda kind, name: build.close(name, kind),
    "Sync": lambda: build.SYNC,
    "Flush": lambda: build.FLUSH,
    "CopyData": lambda rows: message("d", rows.encode()),
    "CopyDone": lambda: message("c"),
    "CopyFail": lambda reason: message("f", text(reason)),
    "Call": lambda function, *values: build.call(function, *_values(*values)),
}

# What a client waits for when it has sent a batch.
READY = "ready"  # the answers to all of it; the batch leaves no pipeline and no COPY open
FLUSHED = "flushed"  # the answers to a pipeline that ends with Flush, in place of Sync
COPY = "copy"  # that the COPY which ends the batch begins, or fails
NOTHING = ""

ENDS = ("terminate", "close", "reset")


@attrs.frozen
class Batch:
    """Sent in one go, or cut at ``cuts`` (percents); others have their turns between the parts."""

    messages: tuple[Message, ...]
    wait: str = READY
    cuts: tuple[int, ...] = ()


def query(sql: str, wait: str = READY) -> Batch:
    """A simple query."""
    return Batch((("Query", sql),), wait)


def run(sql: str) -> tuple[Message, ...]:
    """An unnamed statement, without Sync."""
    return ("Parse", "", sql), ("Bind", "", ""), ("Describe", "P", ""), ("Execute", "", 0)


@attrs.frozen
class Life:
    """One connection: its start-up parameters, its batches, its end.

    ``blind``: it does not wait before the last batch that says so. ``sent``: percent of the last batch
    that is still sent. ``tls``: it is encrypted.
    """

    batches: tuple[Batch, ...]
    parameters: tuple[tuple[str, str], ...] = ()
    blind: bool = False
    end: str = "terminate"
    sent: int = 100
    tls: bool = False


@attrs.frozen
class Kill:
    """At the turn ``turn`` a ``what`` ("client", "server", "worker") dies, a "query" is cancelled, or one
    worker makes way for another ("recycle").
    """

    turn: int
    what: str
    victim: int


@attrs.frozen(repr=False)
class Example:
    """Clients, each with its lives one after the other. ``seed`` decides whose turn it is.

    As a str it is the script that :func:`read_script` reads.
    """

    mode: str
    clients: tuple[tuple[Life, ...], ...]
    seed: int = 0
    kills: tuple[Kill, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def __repr__(self) -> str:
        return f"<example in {self.mode} mode, {sum(map(len, self.clients))} lives>"


@attrs.frozen
class Who:
    """A life of a client; both count from 0."""

    client: int
    life: int

    @property
    def tag(self) -> str:
        return f"<{self.client}.{self.life}>"

    def fill(self, template: str) -> str:
        own = f"shapes.own_{self.client}_{self.life}"
        filled = template.replace("{me}", self.tag).replace("{n}", str(self.client))
        return filled.replace("{own}", own)

    def parameters(self, life: Life) -> dict[str, str]:
        """Of its start-up packet."""
        return {name: self.fill(value) for name, value in life.parameters}

    def encode(self, messages: tuple[Message, ...]) -> bytes:
        return b"".join(map(self._encode, messages))

    def _encode(self, one: Message) -> bytes:
        name, *arguments = one
        filled = [self.fill(a) if isinstance(a, str) else a for a in arguments]
        return MESSAGES[str(name)](*filled)


def _lines(example: Example) -> Iterator[str]:
    """JSON with a batch to a line."""
    yield json.dumps({"mode": example.mode, "seed": example.seed})
    for kill in example.kills:
        yield json.dumps({"kill": attrs.astuple(kill)})
    for number, lives in enumerate(example.clients):
        for life in lives:
            head = attrs.asdict(life, filter=lambda field, _: field.name != "batches")
            yield json.dumps({"client": number, **head})
            for batch in life.batches:
                yield json.dumps({"batch": batch.messages, "wait": batch.wait, "cuts": batch.cuts})


def read_script(source: str) -> Example:
    """The example that was printed; lines that are no JSON objects are passed over."""
    mode, seed = "", 0
    kills: list[Kill] = []
    lives: list[tuple[int, Life]] = []
    for line in source.splitlines():
        match json.loads(line) if line.startswith("{") else None:
            case {"mode": str(mode), "seed": int(seed)}:
                pass
            case {"kill": kill}:
                kills.append(Kill(*kill))
            case {"client": number, "parameters": parameters, **rest}:
                lives.append((number, Life((), tuple(map(tuple, parameters)), **rest)))
            case {"batch": messages, "wait": wait, "cuts": cuts}:
                number, life = lives.pop()
                batch = Batch(tuple(map(tuple, messages)), wait, tuple(cuts))
                lives.append((number, attrs.evolve(life, batches=(*life.batches, batch))))
    count = max((number for number, _ in lives), default=-1) + 1
    clients = tuple(tuple(life for n, life in lives if n == number) for number in range(count))
    return Example(mode, clients, seed, tuple(kills))
