"""What follows from a change: permits that are granted now, and those that are asked back."""

from __future__ import annotations

from poolproxy.ipc.messages import NoServer, Permit, PoolKey
from poolproxy.pool.ledger import moving, news
from poolproxy.pool.ledger.books import Books
from poolproxy.pool.ledger.limits import Blocker
from poolproxy.pool.ledger.logins import late, tell_blocked
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.order import in_turn, rivals, urgency
from poolproxy.pool.ledger.reclaims import Reclaims
from poolproxy.pool.ledger.sharing import applicant_of, holders_of, holdings, note_short, plan
from poolproxy.pool.ledger.state import NOBODY, Ask, PoolState


class Settling:
    """Brings pools to rest. ``deadlines``: when which of them has to be looked at again."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.reclaims = Reclaims()
        self.deadlines: dict[PoolKey, float] = {}

    def settle(self, pools: list[PoolState], now: float) -> Sends:
        """After a change in ``pools``: grant what can be granted, ask back what must be."""
        self._books.restless.update((pool.key, pool) for pool in pools)
        affected = self._books.related(pools)
        sends: Sends = []
        for pool in sorted(affected, key=urgency):
            sends += self._serve(pool, now)
        for pool in affected:
            recheck = self._contend(pool, now)
            sends += moving.messages(pool)
            sends += tell_blocked(pool, self._stuck(pool, now))
            deadline = self._deadline(pool, recheck, now)
            if deadline is None:
                self.deadlines.pop(pool.key, None)
            else:
                self.deadlines[pool.key] = deadline
            if bool(pool.announced) != bool(pool.failing):
                sends += news.announce(pool)
            if deadline is not None or pool.restless or self._books.tally.exceeded(pool):
                self._books.restless[pool.key] = pool
            else:
                self._books.restless.pop(pool.key, None)
            if pool.forgettable and deadline is None and pool.key not in self._books.standing:
                sends += news.forget_server(pool)
                del self._books.pools[pool.key]
                self._books.restless.pop(pool.key, None)
        return sends + self.reclaims.messages()

    def _serve(self, pool: PoolState, now: float) -> Sends:
        """Start the pool's next connection attempt, if one is needed and allowed."""
        sends = self._serve_login(pool, now)
        applicants = in_turn(pool)
        if applicants:
            if self._books.tally.blocker(pool, now) is None:
                sends += self.grant(pool, applicants[0], now)
        elif (
            pool.lacks_minimum
            and self._books.workers - self._books.retired
            and not self._books.leaving
        ):
            sends += self.grant(pool, self._books.least_laden(pool), now)
        return sends

    def _serve_login(self, pool: PoolState, now: float) -> Sends:
        if not pool.logins:
            return []
        sends: Sends = []
        waits = self._is_hopeless(pool)
        for client, worker in late(pool, 0 if waits else self._books.tally.room(pool)):
            sends += [(worker, NoServer(client))] if waits else moving.search(pool, client, worker)
        if pool.logins and not pool.opening and now >= pool.rest_until:
            client, worker = next(iter(pool.logins.items()))
            del pool.logins[client]
            sends += self.grant(pool, worker, now, client)
        return sends

    def _is_hopeless(self, pool: PoolState) -> bool:
        """Whether clients that log in get no server: none where anybody waits."""
        waits = any(p.wants for p in self._books.related([pool]))
        return (
            bool(pool.failure)
            or self._books.leaving
            or self._books.stops(pool.key.database)
            or waits
        )

    def grant(self, pool: PoolState, worker: int, now: float, client: int = 0) -> Sends:
        """A permit for ``worker``, if the pool may make a connection attempt now."""
        if pool.opening or self._retries_later(pool, now) or self._books.tally.blocker(pool, now):
            return []
        if self._books.stops(pool.key.database):
            return []
        lease = self._books.grant(pool, worker, now)
        if worker in pool.promised:
            pool.promised.remove(worker)
        permit = Permit(lease.permit, pool.key, lease.keep, client)
        return [*news.meet(pool, worker), (worker, permit)]

    def _stuck(self, pool: PoolState, now: float) -> bool:
        """Whether a limit keeps clients waiting, and not only a connection attempt that is under way."""
        waits = pool.wants and not pool.satisfied
        return bool(waits and self._books.tally.blocker(pool, now))

    def _retries_later(self, pool: PoolState, now: float) -> bool:
        return now < pool.not_before

    def _deadline(self, pool: PoolState, recheck: float | None, now: float) -> float | None:
        times = [] if recheck is None else [recheck]
        if pool.wants or pool.logins or pool.lacks_minimum or pool.forgettable:
            times.append(pool.not_before)
        if pool.reserve_at is not None:
            times.append(pool.reserve_at)
        return min((time for time in times if time > now), default=None)

    # -- asking back ------------------------------------------------------------------------------

    def _contend(self, pool: PoolState, now: float) -> float | None:
        """Ask holders to give back what the pool's waiters need; returns when to look again."""
        pool.promised = [worker for worker in pool.promised if worker in pool.wants]
        note_short(pool, now)
        excess = self._excess(pool)
        if excess:
            self._shrink(pool, excess, now)
            recheck = moving.call(pool, now)
            return now + pool.slice if recheck is None else min(recheck, now + pool.slice)
        applicants = in_turn(pool)
        if self._books.stops(pool.key.database):
            applicants = []
        blockers = self._books.tally.blockers(pool, now) if applicants else []
        waits_for_retry = bool(applicants) and self._retries_later(pool, now)
        if not (blockers or waits_for_retry) or pool.satisfied:
            self.reclaims.withdraw(pool, list(pool.asks))
            pool.calls.clear()
            return None
        recheck = moving.call(pool, now)
        if not blockers or pool.opening or waits_for_retry:
            return recheck
        others = rivals(pool, blockers, self._books.pools.values())
        holders = [holding for rival in others for holding in holdings(rival, pool.key)]
        rechecks = [] if recheck is None else [recheck]
        if not holders:
            return recheck
        for worker in applicants:
            chosen = plan(pool, applicant_of(pool, worker), holders, now)
            if chosen.recheck is not None:
                rechecks.append(chosen.recheck)
            if chosen.holding is not None:
                holder = (chosen.holding.worker, chosen.holding.pool)
                self.reclaims.ask(pool, holder, Ask(chosen.count, worker), now)
                break
        return min(rechecks, default=None)

    def _excess(self, pool: PoolState) -> int:
        """How many servers of the pool are too many, since a limit was lowered. Of pools that share a limit
        the one with most servers shrinks first.
        """
        found = pool.excess
        for blocker in (Blocker.DATABASE, Blocker.USER):
            limit = getattr(pool.limits, blocker.value)
            if limit and self._books.tally.exceeded(pool):
                sharers = list(rivals(pool, [blocker], self._books.pools.values()))
                excess = sum(sharer.in_use for sharer in sharers) - limit
                if excess > found and pool is max(sharers, key=lambda sharer: sharer.in_use):
                    found = excess
        return min(found, pool.in_use)

    def _shrink(self, pool: PoolState, excess: int, now: float) -> None:
        """Ask the worker that holds most."""
        holders = [h for h in holders_of(pool) if (h, pool.key) not in pool.asks]
        if holders and now >= pool.last_ask + pool.slice:
            most = max(holders, key=pool.held)
            ask = Ask(min(excess, pool.held(most)), NOBODY)
            self.reclaims.ask(pool, (most, pool.key), ask, now)
