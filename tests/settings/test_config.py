from __future__ import annotations

import attrs

from poolproxy.settings.config import REMEMBERED, PoolSettings
from poolproxy.settings.enums import LoadBalance, PoolMode, StatePolicy, TargetSession
from poolproxy.settings.hosts import Host
from tests.settings.loading import USER, load, load_with


def pool_of(proxy: str = "", database: str = "", user: str = "") -> PoolSettings:
    pool = load_with(proxy, database, user).pool("app", "joe")
    assert pool is not None
    return pool


def test_a_pool_without_settings_of_its_own_has_the_proxys() -> None:
    """What neither the user nor the database says is as in [poolproxy]."""
    assert pool_of() == PoolSettings(
        database="app",
        user="joe",
        forced=False,
        hosts=(Host("db.example", 5432),),
        load_balance_hosts=LoadBalance.ROUND_ROBIN,
        target_session_attrs=TargetSession.ANY,
        dbname="app",
        password="secret",
        password_command="",
        pool_mode=PoolMode.SESSION,
        session_state=StatePolicy.RESET,
        pool_size=20,
        min_pool_size=0,
        reserve_pool_size=0,
        max_db_connections=0,
        max_user_connections=0,
        server_lifetime=3600.0,
        connect_query="",
        startup=(),
        query_timeout=0.0,
        transaction_timeout=0.0,
        idle_transaction_timeout=0.0,
        idle_timeout=0.0,
    )


def test_the_user_goes_before_the_database_before_the_proxy() -> None:
    """Mode and sizes of a pool are taken from the nearest that gives them."""
    names = {"proxy": "default_pool_size", "database": "pool_size", "user": "pool_size"}
    given: dict[str, str] = {}
    for number, (scope, size) in enumerate(names.items(), start=1):
        mode = list(PoolMode)[number - 1]
        given[scope] = (
            f'{size} = {number}\nreserve_pool_size = {number}\npool_mode = "{mode.value}"'
        )
        pool = pool_of(**given)
        assert (pool.pool_size, pool.reserve_pool_size, pool.pool_mode) == (number, number, mode)


def test_no_limit_is_a_size_like_others() -> None:
    """pool_size = 0 of a database or user lifts the proxy's limit."""
    assert pool_of(database="pool_size = 0").pool_size == 0
    assert pool_of(database="pool_size = 5", user="pool_size = 0").pool_size == 0


def test_zero_leaves_a_limit_as_it_is_in_the_proxy() -> None:
    """For limits and timeouts of an entry 0 is "not given", as in PgBouncer."""
    limits = ("max_db_connections", "server_lifetime")
    times = ("query_timeout", "transaction_timeout", "idle_transaction_timeout")
    proxy = "\n".join(f"{name} = 7" for name in (*limits, *times, "max_user_connections"))
    pool = pool_of(
        proxy,
        "\n".join(f"{name} = 0" for name in limits),
        "\n".join(f"{name} = 0" for name in (*times, "max_user_connections")),
    )
    assert {getattr(pool, name) for name in (*limits, *times, "max_user_connections")} == {7}


def test_an_entrys_limits_go_before_the_proxys() -> None:
    """Limits and timeouts of an entry replace the proxy's."""
    pool = pool_of(
        "max_db_connections = 7\nmax_user_connections = 7\nquery_timeout = 7\nserver_lifetime = 7",
        "max_db_connections = 8\nserver_lifetime = 9",
        "max_user_connections = 10\nquery_timeout = 11",
    )
    assert pool.max_db_connections == 8
    assert pool.server_lifetime == 9.0
    assert pool.max_user_connections == 10
    assert pool.query_timeout == 11.0


def test_a_pool_keeps_no_more_open_than_it_may_have() -> None:
    """A user whose pool is smaller than its database's min_pool_size keeps the smaller number."""
    assert pool_of(database="min_pool_size = 5", user="pool_size = 2").min_pool_size == 2
    assert pool_of(database="min_pool_size = 5\npool_size = 0").min_pool_size == 5


def test_a_forced_user_owns_the_pool() -> None:
    """With a forced user the pool obeys that user's settings, the client those of its log-in."""
    config = load_with(
        database='user = "app_owner"',
        user="pool_size = 3\nquery_wait_timeout = 4\n[users.app_owner]\npool_size = 5\n"
        'password = "owners"\nquery_wait_timeout = 6',
    )
    pool = config.pool("app", "joe")
    assert pool is not None
    assert (pool.user, pool.forced, pool.pool_size, pool.password) == (
        "app_owner",
        True,
        5,
        "owners",
    )
    assert config.client("app", "joe").query_wait_timeout == 4.0


def test_the_databases_password_goes_before_the_users() -> None:
    """A password for PostgreSQL is the database's, else the user's, else none is known here."""
    assert pool_of(database='password = "db"').password == "db"
    assert pool_of().password == "secret"
    pool = load_with().pool("app", "somebody")
    assert pool is not None
    assert pool.password is None


def test_start_up_parameters_keep_their_order() -> None:
    """The four start-up parameters of a database go to the server under their own names."""
    lines = 'timezone = "UTC"\nclient_encoding = "UTF8"'
    assert pool_of(database=lines).startup == (("client_encoding", "UTF8"), ("timezone", "UTC"))


def test_a_database_without_host_is_in_the_socket_folder() -> None:
    """Without a host PostgreSQL is looked for in unix_socket_dir."""
    config = load(f'[poolproxy]\nunix_socket_dir = "/run/pg"\n[databases.app]\n{USER}')
    pool = config.pool("app", "joe")
    assert pool is not None
    assert pool.hosts == (Host("/run/pg", 5432),)


STAR = f'[databases."*"]\nhost = "any"\n[databases.app]\nhost = "own"\ndbname = "real"\n{USER}'


def test_the_template_stands_for_other_databases() -> None:
    """A database without an entry is the template's, under the name that was asked for."""
    config = load(STAR)
    other, own = config.pool("other", "joe"), config.pool("app", "joe")
    assert other is not None
    assert own is not None
    assert (other.hosts[0].name, other.dbname, other.database) == ("any", "other", "other")
    assert (own.hosts[0].name, own.dbname, own.database) == ("own", "real", "app")


def test_the_template_may_name_one_database() -> None:
    """With a dbname of its own the template sends every name to that database."""
    entry = load(STAR.replace('"any"\n', '"any"\ndbname = "one"\n')).database("other")
    assert entry is not None
    assert entry.dbname == "one"


def test_the_template_stands_for_no_impossible_name() -> None:
    """Console names, empty names and names that PostgreSQL would cut off are no databases."""
    config = load(STAR)
    for name in ("pgbouncer", "poolproxy", "", "x" * 64, "\udcff" * 64):
        assert config.pool(name, "joe") is None
    assert config.pool("\udcff", "joe") is not None


def test_without_template_an_unknown_database_is_none() -> None:
    """An unknown database has no pool; its client is bound by the proxy's settings all the same."""
    config = load_with("query_wait_timeout = 3")
    assert config.database("other") is None
    assert config.pool("other", "joe") is None
    assert config.client("other", "joe").query_wait_timeout == 3.0


def test_a_client_obeys_its_user_before_its_database() -> None:
    """The waiting time has three scopes, in which 0 is no limit; counts come from their own."""
    config = load_with(
        "query_wait_timeout = 1\nclient_idle_timeout = 2\nmax_db_client_connections = 3\n"
        "max_user_client_connections = 4",
        "query_wait_timeout = 5\nmax_db_client_connections = 6",
        "query_wait_timeout = 0\nclient_idle_timeout = 7\nmax_user_client_connections = 8",
    )
    assert attrs.astuple(config.client("app", "joe")) == (0.0, 7.0, 6, 8)
    assert attrs.astuple(config.client("app", "bob")) == (5.0, 2.0, 6, 4)
    assert attrs.astuple(config.client("other", "bob")) == (1.0, 2.0, 3, 4)


def test_pools_and_clients_share_what_is_resolved() -> None:
    """Thousands of clients of a pool share one object."""
    config = load_with()
    assert config.pool("app", "joe") is config.pool("app", "joe")
    assert config.client("app", "joe") is config.client("app", "joe")


def test_names_that_clients_invent_fill_no_memory() -> None:
    """Only so many resolved names are remembered, whatever clients ask for."""
    config = load(STAR)
    for number in range(REMEMBERED * 3):
        config.pool(f"db{number}", "joe")
        config.client("app", f"user{number}")
    assert len(config._pools) <= REMEMBERED
    assert len(config._clients) <= REMEMBERED
