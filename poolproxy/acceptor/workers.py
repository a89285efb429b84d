"""A worker process as the acceptor sees it, and the table of those that live."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import trio

import poolproxy
from poolproxy.ipc.channel import Channel, Received
from poolproxy.ipc.messages import Message

COMMAND = (sys.executable, "-m", "poolproxy.worker")


class State(enum.Enum):
    """The values of the gauge of workers by state; DEAD is only seen by who still holds one."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    DEAD = "dead"


@attrs.define(eq=False)
class Worker:
    """One process. ``number`` is never used again, so what is late for a dead worker finds nobody;
    ``slot`` (0 to N-1) passes to its successor.

    ``heard`` is when its last message came (``time.monotonic()``), ``blame`` why it was killed.
    ``heard_out``: its channel has ended, and all that it had sent was taken in. ``over``: its slot needs
    another worker. ``gone``: it is buried. ``unread``: what it was told and had not read when it ended.
    ``kills``: the databases ("": all) of the KILLs that it has not answered, by their requests.
    """

    number: int
    slot: int
    process: trio.Process
    channel: Channel
    heard: float
    started: float
    state: State = State.STARTING
    blame: str = ""
    farewell: str = ""
    heard_out: bool = False
    ready: trio.Event = attrs.Factory(trio.Event)
    over: trio.Event = attrs.Factory(trio.Event)
    gone: trio.Event = attrs.Factory(trio.Event)
    unread: list[Received] = attrs.Factory(list)
    kills: dict[int, str] = attrs.Factory(dict)

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.process.pid})"

    def is_to_kill(self, database: str) -> bool:
        """Whether it has not answered a KILL of this database's clients."""
        return any(killed in ("", database) for killed in self.kills.values())


class Workers:
    """The live workers by number."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}
        self._last = 0
        self.changed = trio.Event()

    def __iter__(self) -> Iterator[Worker]:
        return iter(tuple(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def next_number(self) -> int:
        self._last += 1
        return self._last

    def get(self, number: int) -> Worker | None:
        return self._workers.get(number)

    def add(self, worker: Worker) -> None:
        self._workers[worker.number] = worker
        self.notify()

    def remove(self, worker: Worker) -> None:
        worker.state = State.DEAD
        self._workers.pop(worker.number, None)
        self.notify()

    def notify(self) -> None:
        """Wake those that wait for a worker to come, go or change its state."""
        self.changed.set()
        self.changed = trio.Event()

    def send(self, sends: Sequence[tuple[int, Message]]) -> None:
        """Post messages to workers by number; those to the dead are dropped."""
        for number, message in sends:
            worker = self._workers.get(number)
            if worker is not None:
                worker.channel.post(message)

    def broadcast(self, message: Message) -> None:
        for worker in self:
            worker.channel.post(message)

    def in_state(self, state: State) -> list[Worker]:
        return [worker for worker in self if worker.state is state]

    def taking(self) -> list[Worker]:
        """Those that a client can be given to now. One that has died unnoticed may be among them: what it is
        given is taken back.
        """
        return [worker for worker in self.in_state(State.READY) if not worker.channel.full]


def oldest_due(
    workers: Iterable[Worker], lifetime: float, last: float, now: float
) -> Worker | None:
    """The worker to replace now, if any has lived for ``lifetime``; ``last``: when one was replaced.

    They all start together; half of a worker's part of the lifetime lies between two.
    """
    ready = [worker for worker in workers if worker.state is State.READY]
    if not lifetime or not ready or now < last + lifetime / (2 * len(ready)):
        return None
    oldest = min(ready, key=lambda worker: worker.started)
    return oldest if now >= oldest.started + lifetime else None


def environment() -> dict[str, str]:
    """The environment of a worker: ours, and the package found where we found it.

    With ``-m`` Python would look in the current folder first, which need not be where the acceptor's
    code comes from.
    """
    root = str(Path(poolproxy.__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([root, inherited]) if inherited else root
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
