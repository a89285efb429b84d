"""Reading the configuration again: all of it, or nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from poolproxy import log as logs
from poolproxy.errors import ConfigError
from poolproxy.settings.config import Config
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import settings_of
from poolproxy.settings.schema import Settings
from poolproxy.tls.contexts import load

if TYPE_CHECKING:
    from poolproxy.acceptor.hub import Hub

log = logging.getLogger("poolproxy.acceptor")


async def reload(hub: Hub) -> bool:
    """Read the files again and put them into use; with any mistake in them the old ones stay (False)."""
    try:
        # In a thread: the accept loop must not wait for a slow disk or a long auth_file.
        loaded = await trio.to_thread.run_sync(load, hub.loaded.path)
        logs.set_up(loaded.config.settings)
    except ConfigError as error:
        for mistake in error.mistakes:
            log.error("%s", mistake)
        log.error("the configuration was not reloaded, the old one stays in use")
        hub.reports.proxy.reload_successful = 0
        return False
    for note in loaded.notes:
        log.warning("%s", note)
    for name in needing_restart(hub.loaded.config, loaded.config):
        log.warning("%s has changed: that takes effect when poolproxy is restarted", name)
    hub.configure(loaded)
    hub.reports.loaded(loaded, hub.generation)
    log.info("configuration reloaded from %s", loaded.path)
    return True


def needing_restart(old: Config, new: Config) -> list[str]:
    """The settings that differ and can't change while we run."""
    return [
        setting.name
        for setting in settings_of(Settings)
        if setting.reload is Reload.RESTART
        and getattr(old.settings, setting.name) != getattr(new.settings, setting.name)
    ]
