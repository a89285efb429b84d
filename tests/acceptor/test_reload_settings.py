"""After a reload the acceptor is as one that was started with the new configuration: for every setting
there is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from poolproxy.acceptor.hub import Hub
from poolproxy.ipc.messages import PoolKey
from poolproxy.settings.config import Config
from poolproxy.settings.diff import settled
from poolproxy.settings.entries import DatabaseSettings, UserSettings
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.files import LoadedConfig
from poolproxy.settings.schema import Settings
from tests.settings.other_values import other_value

CLASSES = {"poolproxy": Settings, "databases": DatabaseSettings, "users": UserSettings}
ALL = [(table, setting) for table, cls in CLASSES.items() for setting in settings_of(cls)]
BASE = Config(
    Settings(),
    {"db": DatabaseSettings(host=("db.example",))},
    {"ann": UserSettings(password="secret")},
    "test.toml",
)


@attrs.frozen
class Somebody:
    """A worker that is told nothing."""

    number: int = 1


def changed(table: str, setting: Setting) -> Config:
    """The base configuration, but for one setting; what needs a restart stays as it was."""
    value: dict[str, Any] = {setting.name: other_value(setting)}
    if table == "poolproxy":
        settings = attrs.evolve(BASE.settings, **value)
        return settled(BASE, attrs.evolve(BASE, settings=settings))
    ((name, entry),) = getattr(BASE, table).items()
    return attrs.evolve(BASE, **{table: {name: attrs.evolve(entry, **value)}})


def loaded(config: Config) -> LoadedConfig:
    return LoadedConfig(config, Path("test.toml"), "", "", {})


def enter(hub: Hub) -> str:
    """A client comes; the user of its pool."""
    pool = hub.loaded.config.pool("db", "ann")
    assert pool is not None
    hub.host.client_up(Somebody(), PoolKey("db", pool.user))
    return pool.user


def state(hub: Hub) -> dict[str, Any]:
    """What it has made of its configuration."""
    user = enter(hub)
    (row,) = (row for row in hub.host.statistics() if row.pool.user == user)
    names = hub.resolver._names
    message = attrs.asdict(hub.configure_message())
    return {
        "limits": row.limits,
        "names": (names.max_ttl, names.nxdomain_ttl),
        "told to workers": {
            k: v for k, v in message.items() if k not in ("generation", "mock_key")
        },
        "settings": hub.loaded.config.settings,
    }


@pytest.mark.parametrize(("table", "setting"), ALL, ids=[f"{t}.{s.name}" for t, s in ALL])
async def test_a_reload_is_like_a_start(table: str, setting: Setting) -> None:
    """Nothing that was made of the old value is left."""
    config = changed(table, setting)
    async with trio.open_nursery() as nursery:
        hub, fresh = (Hub(loaded(one), nursery) for one in (BASE, config))
        enter(hub)
        hub.configure(loaded(config))
        assert state(hub) == state(fresh)
