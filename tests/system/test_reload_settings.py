"""All settings changed by one reload of a running instance."""

from __future__ import annotations

import grp
import os
import signal
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import wait_for
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.schema import Settings
from poolproxy.settings.toml import load_toml
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy, free_port
from tests.fixtures.tls import Certificates
from tests.fixtures.toml import to_toml
from tests.settings.other_values import other_value
from tests.system.consoles import Rows, console
from tests.system.support import PATIENCE, Tables, tables

ALL = {setting.name: setting for setting in settings_of(Settings)}
RELOADED = "configuration reloaded"
HBA = "host all all 127.0.0.1/32 trust\nlocal all all trust\n"


def others(folder: Path, certificates: Certificates) -> dict[str, Any]:
    """Another value for each setting, in TOML's types; files that are named are there."""
    pem = certificates.issue("reload-all", HOST)
    crl = folder / "other.crl"
    crl.write_bytes(certificates.revocation_list())
    texts = {"userlist.txt": '"boss" "secret"\n', "hba.conf": HBA, "ident.conf": "", "pass": ""}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    special = {
        "listen_addr": [HOST, "127.0.0.2"],
        "listen_port": free_port(),
        "metrics_listen": f"{HOST}:{free_port()}",
        "unix_socket_dir": str(folder),
        "unix_socket_group": grp.getgrgid(os.getgid()).gr_name,
        "workers": 1,
        "logfile": str(folder / "log"),
        "admin_users": ["boss", "another"],
        "max_client_conn": 77,
        "auth_type": "hba",
        "auth_file": "userlist.txt",
        "auth_hba_file": "hba.conf",
        "auth_ident_file": "ident.conf",
        "auth_dbname": "app",
        "auth_query": "select usename, passwd from pg_shadow where usename = $1",
        "passfile": "pass",
        "auth_ldap_ca_file": str(certificates.ca),
        "server_tls_sslmode": "verify-full",
    }
    for side in ("client", "server"):
        special |= {
            f"{side}_tls_key_file": str(pem.key),
            f"{side}_tls_cert_file": str(pem.cert),
            f"{side}_tls_ca_file": str(certificates.ca),
            f"{side}_tls_crl_file": str(crl),
        }
    return {name: special.get(name, _plain(setting)) for name, setting in ALL.items()}


def _plain(setting: Setting) -> Any:
    """Another value, as TOML has it."""
    value = other_value(setting)
    return tomllib.loads(f"value = {setting.kind.write(value)}")["value"]


@pytest.fixture
def before(one_postgres: PostgresServer) -> Tables:
    ours = {"workers": 2, "admin_users": ["boss"], "spare_worker": True}
    return tables(one_postgres, {"app": {}}, {"boss": {}}, **ours)


def shown(rows: Rows) -> dict[str, str]:
    return {row["key"]: row["value"] for row in rows}


def test_every_setting_is_in_force_or_named(
    start_proxy: StartProxy, before: Tables, certificates: Certificates
) -> None:
    """What can change has, in the acceptor and in each worker; what needs a restart is as it was, and the
    log says so by name. No setting is left out: a new one is in here by itself.
    """
    proxy = start_proxy(before)
    with console(proxy) as connection:
        old = shown(connection.execute("show config").fetchall())
        values = others(proxy.folder, certificates)
        after = {**before, "poolproxy": values}
        expected = load_toml(to_toml(after), "test.toml").settings
        wanted = {n: "" if s.secret else s.kind.bare(getattr(expected, n)) for n, s in ALL.items()}
        assert {name for name in ALL if wanted[name] == old[name] and not ALL[name].secret} == set()
        proxy.write_config(after)
        proxy.signal(signal.SIGHUP)
        assert wait_for(lambda: RELOADED in proxy.log, PATIENCE), proxy.log
        for name, setting in ALL.items():
            if setting.reload is Reload.RESTART:
                wanted[name] = old[name]
                lines = [line for line in proxy.log.splitlines() if f"{name}: " in line]
                assert any("takes effect when poolproxy is restarted" in line for line in lines), (
                    name
                )
        assert shown(connection.execute("show config").fetchall()) == wanted
        rows = connection.execute("show worker_config").fetchall()
        assert {row["key"] for row in rows} == set(ALL)
        for row in rows:
            assert row["value"] == wanted[row["key"]], row
        _is_reachable(proxy, values)


def _is_reachable(proxy: ProxyProcess, values: dict[str, Any]) -> None:
    """At the new port and socket, and not at the old ones."""
    moved = attrs.make_class("Moved", ["host", "port"])
    for host in ("127.0.0.2", values["unix_socket_dir"]):
        with console(moved(host, values["listen_port"])) as again:
            assert again.execute("show version").fetchone()
