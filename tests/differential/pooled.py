"""The clients of an example through the pool, all at the same time, in one thread.

Whose turn it is to send is decided by the example's seed; what comes is read, and compared, as it comes.
"""

from __future__ import annotations

import random
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

import attrs

from tests.differential.conversation import Conversation, Difference
from tests.differential.direct import Expected
from tests.differential.encrypted import encrypt
from tests.differential.masks import LOSSES, MASKS
from tests.differential.script import Example, Kill, Life, Who
from tests.fixtures.ownership import Fallen
from tests.system.protocol_client import Connection, RawClient, cancel_request, startup

PATIENCE = 15.0  # seconds in which somebody must get on


@attrs.define
class Run:
    """One run of an example; ``kill`` does what a Kill says of the pool, and tells of a worker that it has
    killed. ``authority``: the file with who certifies the pooler.

    Afterwards ``whole`` has the lives that were lived to their end, and ``used`` counts the masks.
    """

    example: Example
    expected: Mapping[Who, Expected]
    address: tuple[str, int]
    user: str
    authority: str
    kill: Callable[[str, int], Fallen | None]
    used: Counter[str] = attrs.Factory(Counter)
    whole: set[Who] = attrs.Factory(set)
    _waiting: list[deque[tuple[Who, Life]]] = attrs.field(init=False)
    _talking: dict[int, Conversation] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        self._waiting = [
            deque((Who(client, number), life) for number, life in enumerate(lives))
            for client, lives in enumerate(self.example.clients)
        ]

    def run(self) -> None:
        """Raises Difference."""
        choose = random.Random(self.example.seed)
        kills = deque(sorted(self.example.kills, key=lambda kill: kill.turn))
        turns, progress = 0, time.monotonic()
        try:
            while self._begin():
                while kills and kills[0].turn <= turns:
                    self._kill(kills.popleft())
                ready = [one for one in self._talking.values() if one.ready]
                if ready:
                    choose.choice(ready).turn()
                    turns += 1
                if self._poll(0 if ready else 1) or ready:
                    progress = time.monotonic()
                elif time.monotonic() > progress + PATIENCE:
                    states = [one.state() for one in self._talking.values()]
                    raise Difference("\n".join(("nobody gets on:", *states)))
                self._note_ended()
        finally:
            for one in self._talking.values():
                one.client.close()

    def _begin(self) -> bool:
        """Whether anybody is there; the next life of each client begins when the last one is over."""
        for client, lives in enumerate(self._waiting):
            if lives and client not in self._talking:
                self._talking[client] = self._connect(*lives.popleft())
        return bool(self._talking)

    def _connect(self, who: Who, life: Life) -> Conversation:
        mode, losses = self.example.mode, LOSSES if self.example.kills else ()
        client = RawClient(self.address, log_in=False)
        if life.tls:
            encrypt(client, self.authority)
        client.send(startup({"user": self.user, "database": mode, **who.parameters(life)}))
        client.sock.setblocking(False)
        expected = self.expected[who]
        masks = MASKS + losses
        return Conversation(mode, who, life, expected, client, masks, self.used)

    def _poll(self, seconds: float) -> bool:
        """Read what has come, waiting for it so long; whether anything happened."""
        poll = select.poll()
        by_descriptor = {
            one.client.sock.fileno(): one for one in self._talking.values() if not one.over
        }
        for descriptor, one in by_descriptor.items():
            poll.register(descriptor, select.POLLIN | (select.POLLOUT if one.blocked else 0))
        events = poll.poll(seconds * 1000)
        for descriptor, event in events:
            one = by_descriptor[descriptor]
            one.blocked = one.blocked and not event & select.POLLOUT
            if event & ~select.POLLOUT:
                one.receive()
        return bool(events)

    def _note_ended(self) -> None:
        for client, one in list(self._talking.items()):
            if one.over:
                del self._talking[client]
                if not one.cut:
                    self.whole.add(one.who)

    def _kill(self, kill: Kill) -> None:
        victims = [one for one in self._talking.values() if not one.over]
        if not victims:
            return
        victim = victims[kill.victim % len(victims)]
        if kill.what == "client":
            victim.cut_off()
        elif kill.what == "query":
            self._cancel(victim)
        else:
            fallen = self.kill(kill.what, kill.victim)
            if fallen is not None:
                self._bereave(victims, fallen)

    def _bereave(self, talking: list[Conversation], fallen: Fallen) -> None:
        """Only who was in the hands of a killed worker may be gone."""
        for one in talking:
            port = one.client.sock.getsockname()[1]
            one.orphaned |= fallen.may_lose(port, logged_in=one.welcome)

    def _cancel(self, victim: Conversation) -> None:
        if victim.welcome:
            victim.cancelled = True
            with Connection(self.address) as canceller:
                canceller.send(cancel_request(victim.client.key))
