"""A client of the chaos: what it reads must be its own, and what it has written must be there, once."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections import Counter

import attrs

from tests.chaos.stage import ADMIN, ROLE_OF
from tests.system.protocol_client import (
    SYNC,
    TERMINATE,
    Eof,
    ErrorAnswer,
    bind,
    cancel_request,
    execute,
    parse,
    query,
)
from tests.system.rough_client import RoughClient

PATIENCE = 45.0  # seconds; who waits longer hangs
CANCELLED = "57014"
DATABASES = [*ROLE_OF, "tx", "tx", "small"]
ENCRYPTED = 0.5  # of all connections


@attrs.frozen
class End:
    """A connection that has ended against its client's will. ``since`` and ``until``: before it was made and
    when its end was seen, as time.monotonic() has it.
    """

    port: int
    since: float
    until: float
    logged_in: bool
    what: str


class Actor:
    """``possible``: what its row may have now: two values, if it can't know whether a COMMIT has come
    through. ``wrong``: what must not happen. ``ends``: of connections that were cut. ``context``: for
    those that are encrypted.
    """

    def __init__(
        self, number: int, seed: int, port: int, context: ssl.SSLContext, over: threading.Event
    ) -> None:
        self.mark = f"mark {number}"
        self.possible = {0}
        self.wrong: list[str] = []
        self.ends: list[End] = []
        self.done: Counter[str] = Counter()
        self.longest = 0.0
        self._chance = random.Random(f"{seed} {number}")
        self._port = port
        self._context = context
        self._over = over
        self.thread = threading.Thread(target=self._run, name=self.mark)

    def _run(self) -> None:
        while not self._over.is_set() and not self.wrong:
            database = self._chance.choice(DATABASES)
            encrypted = self._chance.random() < ENCRYPTED
            what = f"{self.mark} in {database}" + " over TLS" * encrypted
            try:
                self._live(what, database, encrypted=encrypted)
            except Exception as error:
                self.wrong.append(f"{what}: {error!r}")

    def _live(self, what: str, database: str, *, encrypted: bool) -> None:
        """One connection."""
        since, logged_in = time.monotonic(), False
        with RoughClient(self._port, timeout=PATIENCE) as client:
            port = client.local_port
            try:
                if encrypted:
                    client.encrypt(self._context)
                    self.done["begin encrypted"] += 1
                client.log_in(ADMIN, database, application_name=self.mark)
                logged_in = True
                self._converse(client)
            except (Eof, ConnectionError) as error:
                end = End(port, since, time.monotonic(), logged_in, f"{what}: {error!r}")
                self.ends.append(end)
                self._over.wait(0.01)

    def _converse(self, client: RoughClient) -> None:
        text = f"select '{self.mark}', $1, current_setting('application_name')"
        client.send(parse("mine", text, 25) + SYNC)
        client.replies()
        for _ in range(self._chance.randint(1, 40)):
            act = self._chance.choices(ACTS, WEIGHTS)[0]
            began = time.monotonic()
            stays = act(self, client)
            self.longest = max(self.longest, time.monotonic() - began)
            self.done[act.__name__.lstrip("_")] += 1
            if self._over.is_set() or not stays:
                return
            if self._chance.random() < 0.3:
                time.sleep(self._chance.random() * 0.01)
        client.send(TERMINATE)

    def _expect(self, rows: object, *wanted: tuple[str, ...]) -> None:
        assert rows == list(wanted), f"{rows!r:.300} instead of {wanted!r:.300}"

    # -- acts: whether it stays --------------------------------------------------------------------

    def _ask(self, client: RoughClient) -> bool:
        tag = str(self._chance.random())
        self._expect(client.query(f"select '{self.mark}', '{tag}'"), (self.mark, tag))
        return True

    def _ask_much(self, client: RoughClient) -> bool:
        """More than sockets hold: now and then the client does not read for a moment."""
        client.send(
            query(f"select '{self.mark}', g, repeat('x', 300) from generate_series(1, 3000) g")
        )
        if self._chance.random() < 0.5:
            time.sleep(self._chance.random() * 0.05)
        self._expect(client.results(), *((self.mark, str(n), "x" * 300) for n in range(1, 3001)))
        return True

    def _say_much(self, client: RoughClient) -> bool:
        """The same the other way."""
        size = self._chance.randrange(1_000_000)
        rows = client.query(f"select '{self.mark}', length('{'x' * size}')")
        self._expect(rows, (self.mark, str(size)))
        return True

    def _ask_prepared(self, client: RoughClient) -> bool:
        tag = str(self._chance.random())
        client.send((bind("mine", tag.encode()) + execute()) * 2 + SYNC)
        self._expect(client.results(), *[(self.mark, tag, self.mark)] * 2)
        return True

    def _write(self, client: RoughClient) -> bool:
        """A transaction: the row goes on by one, and the log has it."""
        self._write_uncommitted(client)
        (before,) = self.possible
        self.possible = {before, before + 1}
        client.query("commit")
        self.possible = {before + 1}
        return True

    def _write_uncommitted(self, client: RoughClient) -> None:
        client.query("begin")
        update = f"update chaos set n = n + 1 where mark = '{self.mark}' returning mark, n"
        ((mark, n),) = client.query(update)
        assert mark == self.mark
        assert int(n or 0) - 1 in self.possible, f"{n} comes after {self.possible}"
        self.possible = {int(n or 0) - 1}
        client.query(f"insert into chaos_log values ('{self.mark}', {n})")
        if self._chance.random() < 0.3:
            client.query("select pg_sleep(0.005)")
        found = client.query(f"select mark, n from chaos where mark = '{self.mark}'")
        self._expect(found, (self.mark, str(n)))

    def _cancel(self, client: RoughClient) -> bool:
        client.send(query(f"select '{self.mark}' from pg_sleep(1)"))
        with RoughClient(self._port) as canceller:
            try:
                canceller.send(cancel_request(client.key))
                canceller.at_end()
            except Eof:
                pass  # its worker was killed
        try:
            self._expect(client.results(), (self.mark,))
        except ErrorAnswer as error:
            if error.sqlstate != CANCELLED:
                raise
        return True

    def _leave_amid_a_query(self, client: RoughClient) -> bool:
        client.send(query(f"select '{self.mark}', pg_sleep(0.1)"))
        self._leave(client)
        return False

    def _leave_amid_rows(self, client: RoughClient) -> bool:
        client.send(query("select repeat('x', 1000) from generate_series(1, 20000)"))
        client.read_bytes(10_000)
        self._leave(client)
        return False

    def _leave_amid_a_transaction(self, client: RoughClient) -> bool:
        self._write_uncommitted(client)
        self._leave(client)
        return False

    def _leave_amid_a_message(self, client: RoughClient) -> bool:
        client.send(query("select 1")[:-3])
        self._leave(client)
        return False

    def _leave(self, client: RoughClient) -> None:
        if self._chance.random() < 0.5:
            client.reset()
        else:
            client.close()


ACTS = [
    Actor._ask,
    Actor._ask_much,
    Actor._say_much,
    Actor._ask_prepared,
    Actor._write,
    Actor._cancel,
    Actor._leave_amid_a_query,
    Actor._leave_amid_rows,
    Actor._leave_amid_a_transaction,
    Actor._leave_amid_a_message,
]
WEIGHTS = [30, 3, 3, 20, 30, 1, 1, 1, 1, 1]
