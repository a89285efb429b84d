"""The chaos from its start to the count of what is left."""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import attrs
import psycopg

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import process_name
from tests.chaos.actor import Actor, End
from tests.chaos.stage import ADMIN, MOST, WORKERS, Limits, Scene, stage
from tests.fixtures.ownership import Fallen, kill_worker, served
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates
from tests.system.consoles import give
from tests.system.watching import (
    Sampler,
    descriptors,
    eventually,
    metric,
    permits_out,
    superuser,
)

ACTORS = 20
# The first worker lives until the end, when its descriptors show what the others' deaths have left behind.
SPARED = "poolproxy-w0"
KILL_EVERY = 2.0  # seconds
STIR_EVERY = 0.7
LONGER = 30.0  # seconds that it may take more
CALM = 30.0  # seconds within which all must be as at the start
# A lowered limit: sessions and abandoned work have to end first.
SHRINKS_WITHIN = 20.0
CLIENTS_OF = "select usename, count(*) from pg_stat_activity where usename like 'chaos%' group by 1"
RELAYED = "poolproxy_worker_relayed_clients"
READY = r'poolproxy_workers\{state="ready"\}'
MOVES = b" moves\n"  # a client, says the worker that sends it away
UNFIT = "can't be replaced now"  # the console's answer for a worker that is not in full service
NEVER = ("does not hold permit", "could not be handled", "killing worker", "is not reloaded")


@attrs.define
class Report:
    """What has happened."""

    seed: int
    seconds: float
    encrypted: bool
    fallen: list[Fallen] = attrs.Factory(list)
    recoveries: list[float] = attrs.Factory(list)
    stirs: Counter[str] = attrs.Factory(Counter)
    acts: Counter[str] = attrs.Factory(Counter)
    longest: float = 0.0
    ends: int = 0
    relayed: int = 0
    moves: dict[str, float] = attrs.Factory(dict)

    def __str__(self) -> str:
        median = statistics.median(self.recoveries) if self.recoveries else 0.0
        most = max(self.recoveries, default=0.0)
        return "\n".join(
            (
                f"chaos: seed {self.seed}, {self.seconds:g} s, servers "
                f"{'encrypted' if self.encrypted else 'in the clear'}, "
                f"{len(self.fallen)} workers killed, which took {self.ends} clients along; all "
                f"{WORKERS} ready again after {median:.2f} s (median), {most:.2f} s (most)",
                f"orders: {dict(self.stirs)}",
                f"clients did: {dict(self.acts)}; the longest took {self.longest:.2f} s",
                f"moves: {self.moves}; relayed from some moment on: {self.relayed}",
            )
        )


class Killer(threading.Thread):
    """Kills a worker every KILL_EVERY seconds; every other time as soon as a client is on its way."""

    def __init__(self, proxy: ProxyProcess, report: Report, over: threading.Event) -> None:
        super().__init__()
        self._proxy, self._report, self._over = proxy, report, over
        self._chance = random.Random(report.seed)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._over.wait(KILL_EVERY):
                if self._chance.random() < 0.5:
                    self._await_move()
                self._kill()
        except BaseException as error:
            self.error = error

    def _await_move(self) -> None:
        deadline = time.monotonic() + KILL_EVERY
        with self._proxy.log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            while MOVES not in log.read() and time.monotonic() < deadline:
                time.sleep(0.0005)

    def _kill(self) -> None:
        workers = [pid for pid in self._proxy.worker_pids() if process_name(pid) != SPARED]
        if not workers:
            return
        fallen = kill_worker(self._proxy, self._chance.choice(workers))
        if fallen is None:
            return
        began = fallen.until
        self._report.fallen.append(fallen)
        eventually(
            lambda: metric(self._proxy, READY) < WORKERS or self._late(began), 5, "it is dead"
        )
        eventually(lambda: metric(self._proxy, READY) >= WORKERS, 20, "it has a successor")
        self._report.recoveries.append(time.monotonic() - began)

    @staticmethod
    def _late(began: float) -> bool:
        """A successor may be there before anybody has seen that there was none, or it was a retired one."""
        return time.monotonic() > began + 0.3


class Stirrer:
    """Gives orders, and changes limits."""

    def __init__(self, scene: Scene, proxy: ProxyProcess, report: Report) -> None:
        self._scene, self._proxy, self._report = scene, proxy, report
        self._chance = random.Random(report.seed + 1)

    def stir(self) -> None:
        """Do one of these."""
        order = self._chance.choice(
            [self._reload, self._reload, self._recycle, self._reconnect, self._pause]
        )
        order()
        self._report.stirs[order.__name__.lstrip("_")] += 1

    def limit(self, limits: Limits) -> None:
        """Reload with other limits, and see them hold."""
        count = self._generation()
        self._proxy.write_config(limits.tables(self._scene))
        self._proxy.signal(signal.SIGHUP)
        eventually(lambda: self._generation() > count, 15, "the reload")
        with superuser(self._scene.server) as admin:
            eventually(lambda: _fits(admin, limits), SHRINKS_WITHIN, f"{limits} hold")

    def _generation(self) -> int:
        return self._proxy.log.count("configuration reloaded from")

    def _reload(self) -> None:
        self.limit(Limits.any(self._chance))

    def _recycle(self) -> None:
        try:
            give(self._proxy, f"RECYCLE WORKER {self._chance.randrange(1, WORKERS)}", ADMIN)
        except psycopg.OperationalError:
            pass  # the console was with a worker that was killed
        except psycopg.Error as error:
            if UNFIT not in str(error):
                raise

    def _reconnect(self) -> None:
        self._give(f"RECONNECT {self._chance.choice(['tx', 'a', 'small', 'session'])}")

    def _pause(self) -> None:
        database = self._chance.choice(["tx", "a", "b", "small"])
        self._give(f"PAUSE {database}")
        eventually(lambda: self._give(f"RESUME {database}"), 30, f"{database} goes on")

    def _give(self, command: str) -> bool:
        """Whether it was obeyed, or there was nothing to do: an order before it may have been lost."""
        try:
            give(self._proxy, command, ADMIN)
        except psycopg.Error as error:
            if "already" in str(error) or "not paused" in str(error):
                return True
            if not isinstance(error, psycopg.OperationalError):
                raise
            return False  # the console was with a worker that was killed
        return True


def _fits(admin: psycopg.Connection, limits: Limits) -> bool:
    found = dict(admin.execute(CLIENTS_OF).fetchall())
    return all(found.get(role, 0) <= limit for role, limit in limits.of_roles.items())


def run(
    server: PostgresServer,
    certificates: Certificates,
    start: StartProxy,
    seconds: float,
    seed: int | None,
) -> Report:
    """The chaos for so long; raises AssertionError, with the seed, for anything that must not be.

    ``server`` has TLS; whether the pooler uses it is the seed's choice.
    """
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"chaos: seed {seed}", flush=True)
    over = threading.Event()
    encrypted = random.Random(f"{seed} servers").random() < 0.5
    report = Report(seed, seconds, encrypted)
    scene = Scene(server, certificates.issue("chaos", HOST), encrypted)
    marks = [f"mark {number}" for number in range(ACTORS)]
    with stage(scene, start, marks) as proxy:
        before = _at_rest(proxy, [])
        context = certificates.context()
        actors = [Actor(number, seed, proxy.port, context, over) for number in range(ACTORS)]
        with ExitStack() as stack:
            samplers = [stack.enter_context(Sampler(server, role)) for role in MOST]
            killer = Killer(proxy, report, over)
            threads = [killer, *(actor.thread for actor in actors)]
            for thread in threads:
                thread.start()
            try:
                stirrer = Stirrer(scene, proxy, report)
                _disturb(stirrer, actors, killer, seconds, until=lambda: _relayed(proxy))
            finally:
                over.set()
                for thread in threads:
                    thread.join()
        assert killer.error is None, killer.error
        _judge(server, proxy, actors, samplers)
        _judge_ends(proxy, [end for actor in actors for end in actor.ends], report.fallen)
        _at_rest(proxy, before)
        report.ends = sum(len(actor.ends) for actor in actors)
        report.relayed = _relayed(proxy)
        assert report.relayed, "no encrypted client was ever relayed to the home of its pool"
        for actor in actors:
            report.acts.update(actor.done)
            report.longest = max(report.longest, actor.longest)
        for kind, outcome in (("server", "taken"), ("client", "done"), ("client", "lost")):
            name = rf'poolproxy_{kind}_moves_total\{{outcome="{outcome}"\}}'
            report.moves[f"{kind}s {outcome}"] = metric(proxy, name)
    return report


def _disturb(
    stirrer: Stirrer,
    actors: list[Actor],
    killer: Killer,
    seconds: float,
    until: Callable[[], object],
) -> None:
    """For so long; longer on a slow machine, where servers move less, ``until`` clients are relayed."""
    end = time.monotonic() + seconds
    while killer.error is None and not any(actor.wrong for actor in actors):
        late = time.monotonic() - end
        if late > LONGER or (late > 0 and until()):
            break
        stirrer.stir()
        time.sleep(STIR_EVERY)
    stirrer.limit(Limits.most())


def _relayed(proxy: ProxyProcess) -> int:
    """How often a client began to be relayed."""
    return proxy.log.count("is relayed from now on")


def _judge(
    server: PostgresServer, proxy: ProxyProcess, actors: list[Actor], samplers: list[Sampler]
) -> None:
    wrong = [text for actor in actors for text in actor.wrong]
    assert not wrong, "\n".join(wrong)
    for sampler, (role, most) in zip(samplers, MOST.items(), strict=True):
        assert sampler.most <= most, f"{role} had {sampler.most} connections"
    assert not samplers[0].refusals, "PostgreSQL has refused a connection: one too many"
    # A backend whose client has left in mid-transaction may still hold the row.
    eventually(lambda: not _of_chaos(server), CALM, "all backends end")
    with superuser(server) as admin:
        for actor in actors:
            row = admin.execute("select n from chaos where mark = %s", [actor.mark]).fetchone()
            logged = admin.execute(
                "select coalesce(array_agg(n order by n), '{}') from chaos_log where mark = %s",
                [actor.mark],
            ).fetchone()
            assert row is not None
            assert logged is not None
            assert row[0] in actor.possible, (
                f"{actor.mark} has {row[0]}, not one of {actor.possible}"
            )
            assert logged[0] == list(range(1, row[0] + 1)), f"{actor.mark}: {logged[0]}"
    found = [text for text in NEVER if text in proxy.log]
    assert not found, found


def _judge_ends(proxy: ProxyProcess, ends: list[End], fallen: list[Fallen]) -> None:
    """Whoever was cut off had its connection at a worker that was killed then, or was served by one."""
    served_by = served(proxy.log)

    def took(one: Fallen, end: End) -> bool:
        return (one.since <= end.until and end.since <= one.until) and (
            end.port in served_by.get(one.pid, ())
            or one.may_lose(end.port, logged_in=end.logged_in)
        )

    wrong = [end for end in ends if not any(took(one, end) for one in fallen)]
    assert not wrong, "\n".join(f"cut off without a reason: {end}" for end in wrong)


def _of_chaos(server: PostgresServer) -> int:
    """Backends but for those that min_pool_size keeps."""
    with superuser(server) as admin:
        rows = dict(admin.execute(CLIENTS_OF).fetchall())
    return sum(rows.values()) - 1


def _at_rest(proxy: ProxyProcess, before: list[int]) -> list[int]:
    """Wait until nothing goes on, and no more descriptors are open than ``before``: the acceptor's, and the
    most of any worker.
    """
    eventually(lambda: metric(proxy, "poolproxy_clients") == 0, CALM, "no client is counted")
    eventually(lambda: metric(proxy, READY) == WORKERS, CALM, "all workers are ready")
    eventually(lambda: metric(proxy, rf"{RELAYED}\{{.*") == 0, CALM, "nobody is relayed")
    leaving = r'poolproxy_workers\{state="leaving"\}'
    eventually(lambda: metric(proxy, leaving) == 0, CALM, "those that were replaced have left")
    eventually(lambda: permits_out(proxy) == 1, CALM, "all permits but one have come back")
    held = [row["permits"] for row in give(proxy, "SHOW LEDGER", ADMIN)]
    assert sum(held) == 1, held
    eventually(proxy.spare_pids, CALM, "there is a spare")
    assert metric(proxy, "poolproxy_permits_timed_out_total") == 0

    def count() -> list[int]:
        return [descriptors(proxy.pid), max(map(descriptors, proxy.worker_pids()))]

    if before:
        eventually(
            lambda: count() <= before and count()[1] <= before[1], CALM, "no descriptor leaks"
        )
    return count()
