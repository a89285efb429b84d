"""Rules and secrets that change while the pooler runs."""

from __future__ import annotations

from signal import SIGHUP

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import StartProxy
from tests.system.protocol_client import ErrorAnswer, RawClient, refusal
from tests.system.roles import PASSWORD, target
from tests.system.support import eventually, sample


def test_answers_are_kept_for_a_time(
    start_proxy: StartProxy, one_postgres: PostgresServer, roles: None
) -> None:
    """With auth_query_ttl the second log-in asks no more, known or unknown; a reload forgets."""
    tables = {
        "poolproxy": {
            "auth_type": "plain",
            "auth_user": "asker",
            "auth_query_ttl": "1h",
            "workers": 1,
        },
        "databases": {"db": target(one_postgres)},
        "users": {"asker": {"password": "ask"}},
    }
    proxy = start_proxy(tables)
    address = (proxy.host, proxy.port)

    def asked() -> float:
        return sample(proxy, "poolproxy_pool_transactions_total", user="asker")

    for expected in (2, 2):
        refusal(address, "db", "unknown", PASSWORD)
        with RawClient(address, "db", "right_md5", password=PASSWORD) as one:
            assert one.query("select current_user") == [("right_md5",)]
        eventually(lambda: asked() == expected, "that many look-ups")  # noqa: B023
    tables["poolproxy"]["auth_query_ttl"] = 0
    proxy.write_config(tables)
    proxy.signal(SIGHUP)
    eventually(lambda: "configuration reloaded" in proxy.log, "it is reloaded")
    refusal(address, "db", "unknown", PASSWORD)
    eventually(lambda: asked() == 3, "it is asked again")


def test_a_broken_hba_file_leaves_the_old_rules(
    start_proxy: StartProxy, one_postgres: PostgresServer, roles: None
) -> None:
    """A reload with a mistake in auth_hba_file changes nothing and is told with file and line."""
    tables = {
        "poolproxy": {"auth_type": "hba", "auth_hba_file": "hba.conf"},
        "databases": {"db": target(one_postgres) | {"user": "forced", "password": "f"}},
        "users": {"ann": {"password": "x"}},
    }
    proxy = start_proxy(tables, {"hba.conf": "host all all all reject\n"})
    rules = proxy.folder / "hba.conf"
    rules.write_text("host all all all trust\nhost all all all nonsense\n")
    proxy.signal(SIGHUP)
    eventually(lambda: 'hba.conf:2: the method "nonsense"' in proxy.log, "the mistake is told")
    address = (proxy.host, proxy.port)
    assert refusal(address, "db", "ann").message == "login rejected"
    rules.write_text("host all all all trust\n")
    proxy.signal(SIGHUP)

    def gets_in() -> bool:
        try:
            RawClient(address, "db", "ann").leave()
        except ErrorAnswer:
            return False
        return True

    eventually(gets_in, "the new rules hold")
