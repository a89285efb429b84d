"""After a reload a worker is as one that was started with the new configuration: for every setting there
is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any

import attrs
import pytest

from poolproxy.ipc.channel import Channel, pair
from poolproxy.ipc.messages import ConfigFile, Configure
from poolproxy.pool.pool import WorkerPool
from poolproxy.relay.context import Context
from poolproxy.settings.config import ClientSettings, Config, PoolSettings
from poolproxy.settings.diff import settled
from poolproxy.settings.entries import DatabaseSettings, UserSettings
from poolproxy.settings.enums import SslMode
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.schema import Settings
from poolproxy.settings.write import to_toml
from poolproxy.worker.reload import reload
from poolproxy.worker.worker import Worker
from tests.fixtures.logs import own_log
from tests.fixtures.tls import Certificates
from tests.settings.other_values import other_value

CLASSES = {"poolproxy": Settings, "databases": DatabaseSettings, "users": UserSettings}
ALL = [(table, setting) for table, cls in CLASSES.items() for setting in settings_of(cls)]
PLAIN = (bool, int, float, str, tuple, NoneType, Enum, PoolSettings, ClientSettings, Settings)
# What tells of the reload itself.
OWN = {"generation", "load_told", "outdated"}
BASE = Config(
    Settings(listen_addr=("127.0.0.1",), client_tls_sslmode=SslMode.PREFER),
    {"db": DatabaseSettings(host=("127.0.0.1",))},
    {"ann": UserSettings(password="secret")},
    "test.toml",
)


def changed(table: str, setting: Setting) -> Config:
    """The base configuration, but for one setting."""
    value: dict[str, Any] = {setting.name: other_value(setting)}
    if table == "poolproxy":
        new = attrs.evolve(BASE, settings=attrs.evolve(BASE.settings, **value))
        return settled(BASE, new)
    ((name, entry),) = getattr(BASE, table).items()
    return attrs.evolve(BASE, **{table: {name: attrs.evolve(entry, **value)}})


@pytest.fixture(scope="module")
def files(certificates: Certificates) -> tuple[ConfigFile, ...]:
    pem = certificates.issue("reload-settings", "127.0.0.1")
    texts = {"client_tls_key_file": pem.key, "client_tls_cert_file": pem.cert}
    return tuple(ConfigFile(name, path.read_text()) for name, path in texts.items())


@contextmanager
def started(config: Config, files: tuple[ConfigFile, ...]) -> Iterator[Worker]:
    ours, theirs = pair()
    with ours, theirs:
        worker = Worker(Channel(ours), 0, message(config, files, 1))
        settings = worker.config.pool("db", "ann")
        assert settings is not None
        worker.pool(settings)
        yield worker
        worker.lane.close()
        worker.engine.close()


def message(config: Config, files: tuple[ConfigFile, ...], generation: int) -> Configure:
    return Configure(generation, "test.toml", to_toml(config), "", bytes(32), files)


def state(worker: Worker) -> dict[str, Any]:
    """All that a worker keeps of its configuration, also what it has made of it."""
    settings = worker.config.pool("db", "ann")
    assert settings is not None
    pool = worker.pool(settings)
    found = {
        "settings": worker.config.settings,
        "client": worker.config.client("db", "ann"),
        "auth_type": worker.config.auth_type("db", "ann"),
        "lookup": worker.config.lookup("db"),
        "tls": worker.contexts.identity,
        "tracked": worker.context.tracker.names,
        "shares": pool.statements is not None,
    }
    for of, names in (
        (pool, WorkerPool.__slots__),
        (worker.context, [field.name for field in attrs.fields(Context)]),
        (worker, vars(worker)),
    ):
        for name in names:
            value = getattr(of, name)
            if isinstance(value, PLAIN) and name not in OWN:
                found[f"{type(of).__name__}.{name}"] = value
    return found


@pytest.mark.parametrize(("table", "setting"), ALL, ids=[f"{t}.{s.name}" for t, s in ALL])
def test_a_reload_is_like_a_start(
    files: tuple[ConfigFile, ...],
    table: str,
    setting: Setting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that was made of the old value is left."""
    monkeypatch.chdir(tmp_path)  # for a logfile
    config = changed(table, setting)
    with own_log(), started(config, files) as fresh, started(BASE, files) as worker:
        reload(worker, message(config, files, 2))
        assert state(worker) == state(fresh)
