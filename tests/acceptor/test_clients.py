"""The registry of clients."""

from __future__ import annotations

from collections import Counter

from poolproxy.acceptor.clients import NOBODY, Clients
from poolproxy.ipc.messages import CancelKey, PoolKey
from poolproxy.settings.config import ClientSettings

POOL = PoolKey("app", "pool-user")
KEY = CancelKey(1, b"secret")


def bound(database: int = 0, user: int = 0) -> ClientSettings:
    return ClientSettings(
        query_wait_timeout=0,
        client_idle_timeout=0,
        max_db_client_connections=database,
        max_user_client_connections=user,
    )


def clients_with(*ids: int, worker: int = 1) -> Clients:
    clients = Clients()
    for client in ids:
        clients.add(client, worker, surplus=False)
    return clients


def test_refused_sockets_are_a_load_but_do_not_count() -> None:
    """Those over max_client_conn don't keep others out."""
    clients = clients_with(1)
    clients.add(2, 1, surplus=True)
    assert (clients.count, clients.load(1)) == (1, 2)
    clients.gone(1, [2])
    assert (clients.count, clients.load(1)) == (1, 1)


def test_one_over_the_limit_counts_when_there_is_room_for_it() -> None:
    """Asking twice counts it once; one that is gone, or another worker's, finds none."""
    clients = clients_with(1)
    clients.add(2, 1, surplus=True)
    assert not clients.find_room(1, 2, 1)
    assert clients.count == 1
    clients.gone(1, [1])
    assert not clients.find_room(2, 2, 1)
    assert clients.find_room(1, 2, 1)
    assert clients.find_room(1, 2, 1)
    assert clients.count == 1
    clients.gone(1, [2])
    assert not clients.find_room(1, 2, 1)
    assert clients.count == 0


def test_the_limits_are_named_and_hold_until_the_client_is_gone() -> None:
    """The database's limit is checked first, and a place is free again after ClientsGone."""
    clients = clients_with(1, 2, 3)
    assert clients.admit(1, 1, ("app", "alice"), bound(1, 1)) == ""
    assert clients.admit(1, 2, ("app", "alice"), bound(1, 1)) == "max_db_client_connections"
    assert clients.admit(1, 2, ("other", "alice"), bound(1, 1)) == "max_user_client_connections"
    assert clients.admit(1, 3, ("other", "bob"), bound(1, 1)) == ""
    clients.gone(1, [1])
    assert clients.admit(1, 2, ("app", "alice"), bound(1, 1)) == ""


def test_clients_that_came_before_there_was_a_limit_count() -> None:
    """A reload may bring a limit: those who logged in without asking are counted then."""
    clients = clients_with(1, 2)
    assert clients.logged_in(1, 1, KEY, POOL, "alice")
    assert clients.admit(1, 2, ("app", "bob"), bound(1)) == "max_db_client_connections"
    assert clients.admit(1, 2, ("new", "alice"), bound(0, 1)) == "max_user_client_connections"


def test_an_admitted_client_counts_once() -> None:
    """Login and ClientUp of one client are one place."""
    clients = clients_with(1, 2)
    clients.admit(1, 1, ("app", "alice"), bound(2))
    clients.logged_in(1, 1, KEY, POOL, "alice")
    assert clients.admit(1, 2, ("app", "alice"), bound(2)) == ""


def test_a_cancel_key_lives_as_long_as_its_client() -> None:
    """The key leads to the client's worker until the client has gone."""
    clients = clients_with(1, worker=5)
    assert clients.with_key(KEY) is None
    clients.logged_in(5, 1, KEY, POOL, "alice")
    found = clients.with_key(KEY)
    assert found is not None
    assert found.worker == 5
    assert clients.gone(5, [1]) == [POOL]
    assert clients.with_key(KEY) is None


def test_a_dead_workers_clients_are_gone() -> None:
    """Its clients, keys and places go with it; the other workers' stay."""
    clients = clients_with(1, 2)
    clients.add(3, 2, surplus=False)
    clients.logged_in(1, 1, KEY, POOL, "alice")
    assert [len(ids) for ids in clients.worker_gone(1)] == [2, 0]
    assert (clients.count, clients.load(1), clients.load(2)) == (1, 0, 1)
    assert clients.with_key(KEY) is None
    assert clients.admit(2, 3, ("app", "alice"), bound(1)) == ""


def test_a_worker_can_not_speak_for_anothers_client() -> None:
    """Messages on unknown clients, or on those of another worker, change nothing."""
    clients = clients_with(1)
    assert not clients.logged_in(2, 1, KEY, POOL, "alice")
    assert clients.gone(2, [1, 99]) == []
    assert clients.admit(2, 1, ("app", "alice"), bound(1)) == ""
    assert clients.count == 1
    assert clients.with_key(KEY) is None


def on_its_way(*, relayed: bool = False) -> Clients:
    """Client 1 of worker 1 moves to worker 2."""
    clients = clients_with(1, 2)
    clients.logged_in(1, 1, KEY, POOL, "alice")
    assert clients.move(1, 1, 2, relayed=relayed)
    return clients


def state(clients: Clients) -> tuple[int, bool]:
    found = clients.with_key(KEY)
    assert found is not None
    return found.worker, found.moving


def test_a_client_on_its_way_is_its_next_worker_s_load() -> None:
    """Many that move at once do not all go to one worker; the place it was admitted to stays its own."""
    clients = on_its_way()
    assert (clients.load(1), clients.load(2), clients.count) == (1, 1, 2)
    assert clients.admit(1, 2, ("app", "alice"), bound(2)) == ""
    assert clients.admit(1, 2, ("app", "bob"), bound(1)) == "max_db_client_connections"
    assert state(clients) == (2, True)


def test_a_client_that_has_arrived_is_its_new_worker_s() -> None:
    """It is told by whom to forget it, and can move on."""
    clients = on_its_way()
    arrived = clients.arrived(2, 1)
    assert arrived is not None
    assert arrived[1] == 1
    assert state(clients) == (2, False)
    assert clients.arrived(2, 1) is None
    assert clients.move(2, 1, 1)


def test_a_client_that_was_refused_is_back() -> None:
    """Its worker has it as before."""
    clients = on_its_way()
    returned = clients.returned(2, 1)
    assert returned is not None
    assert returned[1] == 1
    assert state(clients) == (1, False)
    assert clients.load(2) == 0


def test_a_dead_source_does_not_take_along_what_it_has_sent() -> None:
    """Its client is on its way and arrives; refused then, it has nowhere to go."""
    clients = on_its_way()
    assert [client.id for client in clients.worker_gone(1)[0]] == [2]
    assert state(clients) == (2, True)
    returned = clients.returned(2, 1)
    assert returned is not None
    assert returned[1] is None
    assert clients.count == 0
    assert clients.with_key(KEY) is None


def test_a_dead_target_gives_back_what_it_had_not_acknowledged() -> None:
    """Nothing of the client was read there, so it goes on where it came from."""
    clients = on_its_way()
    lost, back = clients.worker_gone(2)
    assert (lost, [client.id for client in back]) == ([], [1])
    assert state(clients) == (1, False)


def test_both_workers_dead_is_the_end() -> None:
    """A client whose source has died before is lost with its target."""
    clients = on_its_way()
    clients.worker_gone(1)
    lost, back = clients.worker_gone(2)
    assert ([client.id for client in lost], back) == ([1], [])
    assert clients.count == 0


def test_only_a_logged_in_client_of_the_worker_can_move() -> None:
    """What is said of others, or twice, changes nothing."""
    clients = on_its_way()
    assert not clients.move(1, 1, 2)
    assert not clients.move(2, 1, 1)
    assert not clients.move(1, 2, 2)
    assert not clients.move(1, 99, 2)
    assert clients.arrived(1, 1) is None
    assert clients.returned(1, 1) is None


def relayed() -> Clients:
    """Client 1 is served by worker 2, and worker 1 has its connection; client 2 is at worker 1."""
    clients = on_its_way(relayed=True)
    assert clients.arrived(2, 1) is not None
    return clients


def connections(clients: Clients) -> tuple[int, int, int]:
    """By worker: of all clients, and so of the pool's, which are all but client 2, at worker 1."""
    found = clients.connections(1), clients.connections(2), clients.connections(3)
    assert clients.connections_of(POOL) == +(Counter(dict(enumerate(found, 1))) - Counter({1: 1}))
    return found


def test_a_relayed_client_counts_where_its_connection_is() -> None:
    """Wherever it is served, and until it comes back or leaves."""
    clients = relayed()
    assert (clients.load(1), clients.load(2)) == (1, 1)
    assert (clients.relay_of(1), clients.relay_of(2)) == (1, NOBODY)
    assert connections(clients) == (2, 0, 0)
    assert clients.move(2, 1, 3, relayed=True)
    assert clients.arrived(3, 1) is not None
    assert (clients.relay_of(1), clients.load(3), connections(clients)) == (1, 1, (2, 0, 0))
    assert clients.move(3, 1, 1, relayed=True)
    assert clients.arrived(1, 1) is not None
    assert (clients.relay_of(1), clients.load(1), connections(clients)) == (NOBODY, 2, (2, 0, 0))
    assert clients.move(1, 1, 2)
    assert connections(clients) == (1, 1, 0)
    assert len(clients.gone(2, [1])) == 1
    assert connections(clients) == (1, 0, 0)


def test_a_relayed_client_that_is_refused_is_where_it_was() -> None:
    """Its first worker has it whole again, a later one by its relay."""
    clients = on_its_way(relayed=True)
    assert clients.returned(2, 1) is not None
    assert (clients.relay_of(1), connections(clients)) == (NOBODY, (2, 0, 0))
    clients = relayed()
    assert clients.move(2, 1, 1, relayed=True)
    assert clients.returned(1, 1) is not None
    assert (clients.relay_of(1), clients.load(2), connections(clients)) == (1, 1, (2, 0, 0))


def test_when_a_worker_dies_its_relayed_clients_are_counted_no_more() -> None:
    """The one that serves them takes them along; the one that relays them leaves them to be missed there."""
    clients = relayed()
    clients.worker_gone(2)
    assert connections(clients) == (1, 0, 0)
    clients = relayed()
    clients.worker_gone(1)
    assert clients.load(2) == 1
    assert len(clients.gone(2, [1])) == 1
    assert connections(clients) == (0, 0, 0)
