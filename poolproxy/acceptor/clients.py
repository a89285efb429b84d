"""Every client of every worker: how many there are, who they are, whose cancel key is whose. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from poolproxy.ipc.messages import CancelKey, PoolKey
from poolproxy.settings.config import ClientSettings

NO_LIMIT = ""
NOBODY = 0  # the worker of a socket that is still the acceptor's; those of workers begin with 1


@attrs.define(eq=False)
class Client:
    """An accepted socket. ``pool`` and ``key`` are set once it has logged in.

    ``exempt``: it does not count against max_client_conn, as it has come when that was reached, or is a
    console.
    ``console``: the user of one, else "".
    ``moving``: it is on its way to ``worker``, which has not said yet that it has it. ``source``: the worker
    that it can go back to, None if that is dead. ``permit``: that of the server that goes along, 0 for none.
    ``relay``: the worker that has its connection, NOBODY if that is the one that serves it.
    """

    id: int
    worker: int
    exempt: bool
    console: str = ""
    moving: bool = False
    source: int | None = None
    permit: int = 0
    relay: int = NOBODY
    admitted: tuple[str, str] | None = None
    pool: PoolKey | None = None
    key: CancelKey | None = None

    @property
    def connected_to(self) -> int:
        """The worker that has its connection, which may be another one's client."""
        return self.relay or self.worker


class Clients:
    """The registry of accepted sockets. Ids are never used again."""

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}
        self._by_worker: dict[int, set[int]] = {}
        self._connections: Counter[int] = Counter()
        self._by_pool: dict[PoolKey, Counter[int]] = {}
        self._keys: dict[CancelKey, Client] = {}
        self._databases: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._exempt = 0
        self._consoles: Counter[str] = Counter()
        self._last_id = 0

    @property
    def count(self) -> int:
        """Clients that count against max_client_conn. Those over it don't: they are about to go,
        and a storm of them must not keep the others out. Nor do consoles.
        """
        return len(self._clients) - self._exempt

    @property
    def by_database(self) -> Mapping[str, int]:
        """How many have logged in, by database; as a copy."""
        return dict(self._databases)

    @property
    def by_user(self) -> Mapping[str, int]:
        """The same by the user that they have logged in as."""
        return dict(self._users)

    @property
    def consoles(self) -> Mapping[str, int]:
        """Consoles by their users; as a copy."""
        return dict(self._consoles)

    def load(self, worker: int) -> int:
        """Clients that the worker serves."""
        return len(self._by_worker.get(worker, ()))

    def connections(self, worker: int) -> int:
        """Clients whose connections it has: the same but for those that are relayed."""
        return self._connections[worker]

    def connections_of(self, pool: PoolKey) -> Mapping[int, int]:
        """The same by worker for one pool's clients."""
        return self._by_pool.get(pool, {})

    def relay_of(self, client: int) -> int:
        """The worker that relays the client; NOBODY if it is not relayed."""
        known = self._clients.get(client)
        return NOBODY if known is None else known.relay

    def count_in(self, database: str) -> int:
        """Clients that have logged in to the database."""
        return self._databases[database]

    def next_id(self) -> int:
        """An id for a socket that is about to be handed over."""
        self._last_id += 1
        return self._last_id

    def add(self, client: int, worker: int, *, surplus: bool) -> None:
        """A socket was accepted for a worker, or NOBODY yet."""
        self._clients[client] = Client(client, worker, surplus)
        self._by_worker.setdefault(worker, set()).add(client)
        self._connected(self._clients[client], 1)
        self._exempt += surplus

    def hand_on(self, clients: Iterable[int], worker: int) -> None:
        """Sockets of NOBODY, or of a worker that had never touched them, are another one's now."""
        for client in clients:
            self._place(self._clients[client], worker)

    def find_room(self, worker: int, client: int, limit: int) -> bool:
        """Count a client that has come over max_client_conn, if there is room for it now."""
        known = self._known(worker, client)
        if known is None or (known.exempt and self.count >= limit):
            return False
        self._exempt -= known.exempt
        known.exempt = False
        return True

    def admit(self, worker: int, client: int, name: tuple[str, str], bound: ClientSettings) -> str:
        """Count a client in, ``name`` being its database and user; returns the setting that forbids it."""
        known = self._known(worker, client)
        if known is None:
            return NO_LIMIT
        database, user = name
        if 0 < bound.max_db_client_connections <= self._databases[database]:
            return "max_db_client_connections"
        if 0 < bound.max_user_client_connections <= self._users[user]:
            return "max_user_client_connections"
        self._count_in(known, name)
        return NO_LIMIT

    def logged_in(self, worker: int, client: int, key: CancelKey, pool: PoolKey, user: str) -> bool:
        """A client has logged in; False if it is not known (it belongs to no live worker)."""
        known = self._known(worker, client)
        if known is None or known.pool is not None:
            return False
        # Also those for whom no limit was set when they came: a reload may bring one.
        self._count_in(known, (pool.database, user))
        self._connected(known, -1)
        known.pool, known.key = pool, key
        self._connected(known, 1)
        self._keys[key] = known
        return True

    def console(self, worker: int, client: int, key: CancelKey, user: str) -> None:
        """A client has logged in to the console."""
        known = self._known(worker, client)
        if known is None or known.key is not None:
            return
        self._exempt += not known.exempt
        known.exempt = True
        known.key, known.console = key, user
        self._consoles[user] += 1
        self._keys[key] = known

    def gone(self, worker: int, clients: Iterable[int]) -> list[PoolKey]:
        """Sockets are closed; returns the pools of those that had logged in."""
        pools = []
        for client in clients:
            known = self._known(worker, client)
            if known is not None:
                self._remove(known)
                if known.pool is not None:
                    pools.append(known.pool)
        return pools

    def worker_gone(self, worker: int) -> tuple[list[Client], list[Client]]:
        """The worker is dead and its sockets with it; returns those, and the clients that were on their way
        there and are back now where they came from.
        """
        lost, back = [], []
        for number in self._by_worker.pop(worker, set()):
            client = self._clients[number]
            if client.moving and client.source is not None:
                self._place(client, client.source, client.relay)
                back.append(client)
            else:
                self._remove(client)
                lost.append(client)
        for client in self._clients.values():
            if client.source == worker:
                client.source = None
        return lost, back

    def worker_of(self, client: int) -> int | None:
        """The worker that has this client, logged in or not."""
        known = self._clients.get(client)
        return None if known is None else known.worker

    def with_key(self, key: CancelKey) -> Client | None:
        """The client with this cancel key."""
        return self._keys.get(key)

    # -- moves ------------------------------------------------------------------------------------

    def move(
        self, worker: int, client: int, target: int, permit: int = 0, *, relayed: bool = False
    ) -> bool:
        """A logged-in client of ``worker`` is on its way to ``target``; False if there is no such client.
        ``relayed``: its connection is not.
        """
        known = self._known(worker, client)
        if known is None or known.pool is None or known.moving:
            return False
        relay = (known.relay or worker) if relayed else NOBODY
        self._place(known, target, relay)
        known.relay = relay  # also on the way there: it may come back
        known.moving, known.source, known.permit = True, worker, permit
        return True

    def arrived(self, worker: int, client: int) -> tuple[Client, int | None] | None:
        """It is there; returns it and its former worker, if that lives. None: it was not on its way there."""
        known = self._known(worker, client)
        if known is None or not known.moving:
            return None
        source = known.source
        self._place(known, worker, known.relay)
        return known, source

    def returned(self, worker: int, client: int) -> tuple[Client, int | None] | None:
        """``worker`` has refused it: as :meth:`arrived`, but it is back at its former worker, or gone."""
        known = self._known(worker, client)
        if known is None or not known.moving:
            return None
        source = known.source
        if source is None:
            self._remove(known)
        else:
            self._place(known, source, known.relay)
        return known, source

    def _place(self, client: Client, worker: int, relay: int = NOBODY) -> None:
        """The client is at ``worker``, and stays; its connection is there, too, or at ``relay``."""
        self._by_worker.get(client.worker, set()).discard(client.id)
        self._by_worker.setdefault(worker, set()).add(client.id)
        self._connected(client, -1)
        client.worker, client.moving, client.source = worker, False, None
        client.relay = relay if relay != worker else NOBODY
        self._connected(client, 1)

    def _connected(self, client: Client, change: int) -> None:
        """The worker has its connection; not any more if ``change`` is -1."""
        self._connections[client.connected_to] += change
        if client.pool is None:
            return
        workers = self._by_pool.setdefault(client.pool, Counter())
        workers[client.connected_to] += change
        if not workers[client.connected_to]:
            del workers[client.connected_to]
        if not workers:
            del self._by_pool[client.pool]

    def _known(self, worker: int, client: int) -> Client | None:
        known = self._clients.get(client)
        return known if known is not None and known.worker == worker else None

    def _count_in(self, client: Client, name: tuple[str, str]) -> None:
        if client.admitted is None:
            client.admitted = name
            self._databases[name[0]] += 1
            self._users[name[1]] += 1

    def _remove(self, client: Client) -> None:
        del self._clients[client.id]
        self._by_worker.get(client.worker, set()).discard(client.id)
        self._connected(client, -1)
        self._exempt -= client.exempt
        if client.console:
            _decrement(self._consoles, client.console)
        if client.key is not None and self._keys.get(client.key) is client:
            del self._keys[client.key]
        if client.admitted is not None:
            _decrement(self._databases, client.admitted[0])
            _decrement(self._users, client.admitted[1])


def _decrement(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
