"""Reloads that change limits, TLS files and databases at once, while clients are at work."""

from __future__ import annotations

import signal
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates, Pem
from tests.system.consoles import give, one
from tests.system.support import Tables, client, eventually, tables
from tests.system.tls_support import connect

THREADS = 6  # half of them by TLS
ROUNDS = 4
SIZES = (4, 1, 3, 2)


def config(server: PostgresServer, pem: Pem, certificates: Certificates, number: int) -> Tables:
    """That of round ``number``: pool sizes, time-outs, the certificate's files and all but two databases
    differ from round to round.
    """
    size = SIZES[number % len(SIZES)]
    databases = {
        "app": {"pool_mode": "transaction", "pool_size": size},
        "work": {"pool_mode": "transaction", "pool_size": size + 1, "server_lifetime": 60 + number},
        f"only{number}": {"pool_size": 1},
    }
    return tables(
        server,
        databases,
        {"boss": {}, f"user{number}": {}},
        workers=2,
        admin_users=["boss"],
        max_client_conn=100 + number,
        default_pool_size=5 + number,
        query_wait_timeout=30 + number,
        max_db_connections=size + 1,
        client_tls_sslmode="prefer",
        client_tls_key_file=str(pem.key),
        client_tls_cert_file=str(pem.cert),
    )


def work(proxy: ProxyProcess, sslmode: str, database: str, over: threading.Event) -> int:
    """Transactions until ``over``, on a connection that is made anew now and then; raises what goes wrong."""
    url = proxy.url(user="postgres", password="unused", database=database)
    done = 0
    while not over.is_set():
        with psycopg.connect(url, sslmode=sslmode) as connection:
            assert connection.pgconn.ssl_in_use == (sslmode == "require")
            for _ in range(40):
                sql = "select %s::int, pg_sleep(0.002)"
                for number in (done, done + 1):
                    assert connection.execute(sql, [number]).fetchone()[0] == number
                connection.commit()
                done += 1
    return done


@contextmanager
def at_work(proxy: ProxyProcess) -> Iterator[list[Future[int]]]:
    over = threading.Event()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield [
                pool.submit(
                    work,
                    proxy,
                    ("disable", "require")[number % 2],
                    ("app", "work")[number // 2 % 2],
                    over,
                )
                for number in range(THREADS)
            ]
        finally:
            over.set()


def served(proxy: ProxyProcess, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that clients are shown now."""
    with connect(proxy, context) as tls:
        return int(str(tls.sock.getpeercert()["serialNumber"]), 16)


def test_all_at_once_under_load(
    start_proxy: StartProxy, one_postgres: PostgresServer, certificates: Certificates
) -> None:
    """Clients of databases that remain see nothing of it. Each new certificate is served, each new limit
    holds, new databases are there, and the clients of those that are gone are told so.
    """
    pems = [certificates.issue(f"drill{number}", HOST) for number in range(ROUNDS + 1)]
    context = certificates.context()
    proxy = start_proxy(config(one_postgres, pems[0], certificates, 0))
    serials = {served(proxy, context)}
    with at_work(proxy) as workers:
        for number in range(1, ROUNDS + 1):
            with client(proxy, f"only{number - 1}") as leaving:
                assert leaving.value("select 1") == "1"
                proxy.write_config(config(one_postgres, pems[number], certificates, number))
                proxy.signal(signal.SIGHUP)
                assert leaving.farewell().message == "database removed"
            with client(proxy, f"only{number}") as newcomer:
                assert newcomer.value("select 1") == "1"
            with pytest.raises(psycopg.OperationalError, match="no such database"):
                psycopg.connect(
                    proxy.url(user="postgres", password="-", database=f"only{number - 1}")
                )
            serials.add(served(proxy, context))
            assert len(serials) == number + 1
            follows_limits(proxy, SIZES[number % len(SIZES)])
            for done in workers:
                assert not done.done(), done.exception()
    assert all(done.result() > 10 for done in workers)
    assert proxy.log.count("configuration reloaded") == ROUNDS
    assert "client_tls_cert_file" in proxy.log


def follows_limits(proxy: ProxyProcess, size: int) -> None:
    """The pools shrink to their new sizes, or grow, and all threads are at work by them."""

    def fits() -> bool:
        rows = give(proxy, "show ledger")
        app, work_ = (one(rows, database=name)["permits"] for name in ("app", "work"))
        shown = give(proxy, "show databases")
        told = [one(shown, name=name)["pool_size"] for name in ("app", "work")]
        return told == [size, size + 1] and app <= size and work_ <= size + 1

    eventually(fits, f"pool sizes are {size} and {size + 1}")
