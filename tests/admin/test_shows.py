"""Rows of SHOW commands that are made of the configuration alone, as PgBouncer has them."""

from __future__ import annotations

from pathlib import Path

import attrs

from poolproxy.admin.averages import Averages
from poolproxy.admin.registry import SHOWS
from poolproxy.admin.view import View
from poolproxy.pool.holds import Holds
from poolproxy.settings.config import Config
from poolproxy.settings.field import settings_of
from poolproxy.settings.ini import load_ini
from poolproxy.settings.pgbouncer import GLOBAL
from poolproxy.settings.schema import Settings
from poolproxy.settings.sections.authentication import AUTH_QUERY
from tests.settings.loading import load_with

# key|value|default of PgBouncer 1.24.1 with the lines below; those that name the machine are left out.
RECORDED = Path(__file__).with_name("show_config.txt").read_text().splitlines()
LINES = """
[pgbouncer]
listen_addr = 127.0.0.1
unix_socket_dir =
auth_type = trust
admin_users = adm
unix_socket_mode = 0770
tcp_user_timeout = 5000
query_wait_timeout = 30.50
max_client_conn = 0x40
pkt_buf = 8192
job_name = x
"""
# Of these PgBouncer shows what is true of the machine.
MACHINE = {"auth_file", "conffile", "listen_port"}
# Newer than 1.24.
NEWER = {
    *("auth_ldap_options", "client_tls13_ciphers", "login_notify_message", "pool_idle_timeout"),
    *("query_wait_notify", "scram_iterations", "server_tls13_ciphers", "transaction_timeout"),
}
# Ours means the same; 1.25 has changed the other one.
DIFFERENT = {
    "auth_query": (AUTH_QUERY, AUTH_QUERY),
    "server_check_query": ("<empty>", "<empty>"),
}


def ini(text: str) -> Config:
    return load_ini(text, "pgbouncer.ini", lambda name: "")


def rows(command: str, config: Config, **known: object) -> list[dict[str, str | None]]:
    """The rows of a SHOW command before anything has happened; ``known``: what is known all the same."""
    view = View(
        config=config,
        rows=(),
        live=frozenset(),
        averages=Averages(0.0),
        ledger=(),
        workers=(),
        holds=Holds(),
        userlist=frozenset(),
        database_clients={},
        user_clients={},
        hosts=(),
        names=(),
        peers=(),
        clients=0,
        consoles={},
        version="",
        now=0.0,
    )
    show = SHOWS[command]
    assert show.rows is not None
    names = [column.name for column in show.columns]
    return [dict(zip(names, row, strict=True)) for row in show.rows(attrs.evolve(view, **known))]


# -- SHOW CONFIG ----------------------------------------------------------------------------------


def shown(config: Config) -> dict[str | None, tuple[str | None, str | None]]:
    return {row["key"]: (row["value"], row["default"]) for row in rows("CONFIG", config)}


def test_config_of_an_ini_file_is_what_pgbouncer_shows() -> None:
    """Each key of PgBouncer's has the value and the default that a real one shows for the same file."""
    lines = (line.split("|") for line in RECORDED)
    wanted = {
        key: tuple(None if text == "NULL" else text for text in texts) for key, *texts in lines
    }
    found = shown(ini(LINES))
    assert {key: found[key] for key in wanted} == wanted | DIFFERENT


def test_config_of_an_ini_file_has_every_key() -> None:
    """PgBouncer's, also those that do nothing here, and our own; none twice, in their order."""
    keys = [row["key"] for row in rows("CONFIG", ini(LINES))]
    recorded = {line.split("|")[0] for line in RECORDED}
    ours = {setting.name for setting in settings_of(Settings)}
    assert keys == sorted(recorded | MACHINE | NEWER | ours)
    assert set(keys) >= GLOBAL.keys() - {"service_name"}  # which is for Windows


def test_config_shows_the_file_and_what_is_not_set() -> None:
    """conffile is the file; NULL is what has no default, also where a file sets it to nothing."""
    found = shown(ini("[pgbouncer]\nauth_user =\nauth_file = /etc/users\nlogfile =\n"))
    assert found["conffile"] == ("pgbouncer.ini", None)
    assert found["auth_user"] == (None, None)
    assert found["auth_file"] == ("/etc/users", None)
    assert found["logfile"] == ("", "")


def test_idle_settings_fall_back_with_their_section() -> None:
    """A further header [pgbouncer] sets what does nothing here back, too."""
    assert shown(ini("[pgbouncer]\npkt_buf = 1\nsbuf_loopcnt = 2\n"))["pkt_buf"] == ("1", "4096")
    found = shown(ini("[pgbouncer]\npkt_buf = 1\n[pgbouncer]\nsbuf_loopcnt = 2\n"))
    assert (found["pkt_buf"], found["sbuf_loopcnt"]) == (("4096", "4096"), ("2", "5"))


def test_config_of_a_toml_file_has_our_settings() -> None:
    """Only those that do something, with the defaults of that format; modes are octal."""
    found = shown(load_with('unix_socket_mode = "0700"'))
    assert found.keys() == {setting.name for setting in settings_of(Settings)}
    assert found["unix_socket_mode"] == ("0700", "0777")
    assert found["auth_user"] == ("", "")
    assert found["workers"] == ("auto", "auto")


def test_secrets_are_not_shown() -> None:
    """A setting with a password in it is empty, whatever the format."""
    options = "ldapserver=ldap.example ldapbasedn=x ldapbinddn=y ldapbindpasswd=s3cret"
    found = shown(ini(f"[pgbouncer]\nauth_ldap_options = {options}\n"))
    assert found["auth_ldap_options"] == (None, None)


# -- SHOW DATABASES and SHOW USERS ----------------------------------------------------------------

DATABASES = """
[databases]
zoo = host=10.0.0.1 port=5433 user=keeper
list = host=10.0.0.1,10.0.0.2 load_balance_hosts=disable
sock = dbname=other
path = host=/run/pg
* = host=10.0.0.9
[pgbouncer]
"""


def test_databases_have_null_where_nothing_is_said() -> None:
    """Without a host it is the Unix socket, NULL in PgBouncer; pgbouncer has its place among the names."""
    found = rows("DATABASES", ini(DATABASES))
    assert [(row["name"], row["host"], row["database"], row["force_user"]) for row in found] == [
        ("list", "10.0.0.1,10.0.0.2", "list", None),
        ("path", "/run/pg", "path", None),
        ("pgbouncer", None, "pgbouncer", "pgbouncer"),
        ("sock", None, "other", None),
        ("zoo", "10.0.0.1", "zoo", "keeper"),
    ]
    balance = {row["name"]: row["load_balance_hosts"] for row in found}
    assert balance == dict.fromkeys(balance) | {"list": "disable"}


def test_users_have_the_consoles_own() -> None:
    """pgbouncer is one of them; consoles count as clients of theirs."""
    config = ini("[users]\nann = pool_size=3\n[pgbouncer]\nmax_user_connections = 7\n")
    found = rows("USERS", config, userlist=frozenset({"bob"}), consoles={"bob": 2, "eve": 1})
    assert [
        (
            row["name"],
            row["pool_size"],
            row["max_user_connections"],
            row["current_client_connections"],
        )
        for row in found
    ] == [
        ("ann", "        3", "7", "0"),
        ("bob", "", "7", "2"),
        ("eve", "", "7", "1"),
        ("pgbouncer", "", "7", "0"),
    ]
    lists = {row["list"]: row["items"] for row in rows("LISTS", config, consoles={"bob": 2})}
    assert (lists["users"], lists["used_clients"]) == ("3", "2")
