"""Which host of a database a new server connection tries, and what is known of each host.

Theory of operation. Every attempt may try all hosts of the list, in the order that :class:`Hosts` gives; so
what is believed of a host decides when it is tried, and never whether. The order:

1. those that suit target_session_attrs, as far as is known. They take turns (load_balance_hosts =
   round-robin), or the one that served last comes first (disable).
2. those whose role is not known, where the one that is wanted is known to be among the others.
3. those that did not suit. After a failover one of them does.
4. those that could not be reached, until their back-off is over: server_login_retry, doubled with each
   failure, at most four times that.

A host that has failed before is *suspect*: the worker gives it little time while there are others, so that
one which swallows packets does not make each log-in wait.

Pure: ``now`` is an argument. The acceptor has one for all workers, so that each learns from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import attrs

from poolproxy.ipc.messages import Candidate
from poolproxy.settings.enums import LoadBalance, TargetSession
from poolproxy.settings.hosts import Host

MOST_BACKOFF = 4.0  # times server_login_retry
# What a host was is believed for so long where several are good: one that has become a standby is to be
# found, and looking costs a log-in.
ROLE_SECONDS = 30.0


class Role(Enum):
    """What a server is; ``READ_ONLY`` is a primary whose default_transaction_read_only is on."""

    PRIMARY = "primary"
    READ_ONLY = "read-only"
    STANDBY = "standby"


_SUITED = {
    TargetSession.ANY: frozenset(Role),
    TargetSession.READ_WRITE: frozenset({Role.PRIMARY}),
    TargetSession.READ_ONLY: frozenset({Role.READ_ONLY, Role.STANDBY}),
    TargetSession.PRIMARY: frozenset({Role.PRIMARY, Role.READ_ONLY}),
    TargetSession.STANDBY: frozenset({Role.STANDBY}),
    TargetSession.PREFER_STANDBY: frozenset({Role.STANDBY}),
}
_WRITERS = frozenset({TargetSession.READ_WRITE, TargetSession.PRIMARY})


def suits(wanted: TargetSession, role: Role) -> bool:
    """Whether a server with this role is what is wanted; of prefer-standby: what is preferred."""
    return role in _SUITED[wanted]


def role_of(*, in_recovery: bool, read_only: bool) -> Role:
    """From pg_is_in_recovery() and default_transaction_read_only."""
    if in_recovery:
        return Role.STANDBY
    return Role.READ_ONLY if read_only else Role.PRIMARY


def reported_role(parameters: Mapping[str, str]) -> Role | None:
    """From what PostgreSQL reports at the log-in; None before PostgreSQL 14, which does not tell."""
    in_recovery = parameters.get("in_hot_standby")
    read_only = parameters.get("default_transaction_read_only")
    if in_recovery is None or read_only is None:
        return None
    return role_of(in_recovery=in_recovery == "on", read_only=read_only == "on")


@attrs.define(eq=False)
class HostState:
    """What is known of one host. ``retry_at``: it is tried after all others until then."""

    failures: int = 0
    reason: str = ""
    retry_at: float = float("-inf")
    role: Role | None = None
    role_at: float = float("-inf")


@attrs.frozen
class HostStatistics:
    """One host at a moment; ``role`` "" is not known, ``reason`` "" if it could be reached last."""

    host: Host
    role: str
    reason: str
    failures: int
    retry_in: float


class Hosts:
    """All hosts of the configuration that have been tried."""

    def __init__(self) -> None:
        self._states: dict[Host, HostState] = {}
        self._turns: dict[tuple[Host, ...], int] = {}

    def order(
        self, hosts: tuple[Host, ...], balance: LoadBalance, wanted: TargetSession, now: float
    ) -> tuple[Candidate, ...]:
        """The hosts as the next attempt is to try them."""
        turn = self._turns.get(hosts, 0)
        takes_turns = balance is LoadBalance.ROUND_ROBIN
        ranks: dict[int, list[Host]] = {}
        for host in hosts if takes_turns else _from(hosts, turn):
            ranks.setdefault(self._rank(host, wanted, now), []).append(host)
        if takes_turns:
            self._turns[hosts] = turn + 1
        ordered: list[Host] = []
        for rank in sorted(ranks):
            ordered += _from(ranks[rank], turn) if takes_turns else ranks[rank]
        return tuple(Candidate(h.name, h.port, self._state(h).failures > 0) for h in ordered)

    def reached(self, host: Host, role: Role | None, now: float) -> None:
        """The host has answered."""
        state = self._state(host)
        state.failures, state.reason, state.retry_at = 0, "", float("-inf")
        if role is not None:
            state.role, state.role_at = role, now

    def serves(self, hosts: tuple[Host, ...], host: Host, balance: LoadBalance) -> None:
        """An attempt with these ``hosts`` has come to a server on ``host``."""
        # With round-robin the turn is a count of attempts, else a place in the list.
        if balance is LoadBalance.DISABLE and host in hosts:
            self._turns[hosts] = hosts.index(host)

    def failed(self, host: Host, reason: str, pause: float, now: float) -> None:
        """The host could not be reached; ``pause`` is server_login_retry."""
        state = self._state(host)
        state.failures += 1
        state.reason = reason
        state.retry_at = now + min(pause * 2.0 ** min(state.failures - 1, 10), pause * MOST_BACKOFF)

    def configure(self, hosts: Iterable[Host]) -> None:
        """Forget those that the configuration no longer has."""
        known = set(hosts)
        self._states = {host: state for host, state in self._states.items() if host in known}
        self._turns = {key: turn for key, turn in self._turns.items() if known.issuperset(key)}

    def statistics(self, now: float) -> tuple[HostStatistics, ...]:
        """A row for each host that has been tried."""
        return tuple(
            HostStatistics(
                host,
                state.role.value if state.role else "",
                state.reason,
                state.failures,
                max(0.0, state.retry_at - now) if state.failures else 0.0,
            )
            for host, state in self._states.items()
        )

    def _state(self, host: Host) -> HostState:
        return self._states.setdefault(host, HostState())

    def _rank(self, host: Host, wanted: TargetSession, now: float) -> int:
        state = self._state(host)
        if now < state.retry_at:
            return 4
        role = state.role
        if wanted not in _WRITERS and now >= state.role_at + ROLE_SECONDS:
            role = None
        if role is None:
            return 2 if wanted in _WRITERS else 1
        return 1 if suits(wanted, role) else 3


def _from(hosts: Sequence[Host], turn: int) -> list[Host]:
    """``hosts`` from one of them on, and then those before it."""
    first = turn % len(hosts)
    return [*hosts[first:], *hosts[:first]]
