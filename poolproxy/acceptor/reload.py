"""Reading the configuration again: all of it, or nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import attrs
import trio

from poolproxy import log as logs
from poolproxy.acceptor.doors import Doors, warn_of_ignored
from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.supervisor import Supervisor
from poolproxy.acceptor.system import warn_of_few_descriptors
from poolproxy.acceptor.systemd import Manager
from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.diff import Change, changes, file_changes, settled
from poolproxy.settings.enums import Reload
from poolproxy.settings.files import LoadedConfig
from poolproxy.settings.schema import Settings
from poolproxy.tls.contexts import load

log = logging.getLogger("poolproxy.acceptor")

LEAVING = Mistake("reload", "poolproxy is shutting down")


class Reloader:
    """Puts new configurations into use, one at a time."""

    def __init__(self, hub: Hub, doors: Doors, supervisor: Supervisor, manager: Manager) -> None:
        self._hub = hub
        self._doors = doors
        self._supervisor = supervisor
        self._manager = manager
        self._one = trio.Lock()

    async def __call__(self, settings: Mapping[str, str] | None = None) -> Sequence[Mistake]:
        """Read the files again and put them into use; with any mistake in them the old ones stay.

        ``settings``: those of the proxy that are to differ from the files, as the console's SET has them.
        Returns the mistakes, which are logged.
        """
        async with self._one:
            self._manager.reloading()
            try:
                await self._reload(settings or {})
            except ConfigError as error:
                for mistake in error.mistakes:
                    log.error("%s", mistake)
                log.error("the configuration was not reloaded, the old one stays in use")
                if settings is None:
                    self._hub.reports.proxy.reload_successful = 0
                return error.mistakes
            finally:
                if not self._hub.leaving:
                    self._manager.ready()
        return ()

    async def _reload(self, settings: Mapping[str, str]) -> None:
        hub = self._hub
        old = hub.loaded
        overrides = attrs.evolve(old.overrides, settings=settings)
        # In threads: the accept loop must not wait for a slow disk, a long auth_file or a resolver.
        new = await trio.to_thread.run_sync(load, old.path, overrides)
        before, after = old.config.settings, new.config.settings
        opening = await trio.to_thread.run_sync(self._doors.prepare, before, after)
        try:
            if hub.leaving:
                raise ConfigError([LEAVING])
            logs.set_up(after)
        except BaseException:
            opening.close(self._doors.listeners)
            raise
        # From here on nothing can fail.
        for note in new.notes:
            if note not in old.notes:  # else it has been told
                log.warning("%s", note)
        found = (*changes(old.config, new.config), *file_changes(_texts(old), _texts(new)))
        hub.configure(attrs.evolve(new, config=settled(old.config, new.config)))
        await self._doors.commit(opening)
        self._supervisor.resize(worker_count(after))
        hub.reports.loaded(hub.loaded, hub.generation)
        _tell(found)
        if before.max_client_conn != after.max_client_conn:
            warn_of_few_descriptors(hub.reports.proxy.max_fds, after.max_client_conn)
        if before != after:
            warn_of_ignored(after, self._doors.inherited)
        log.info("configuration reloaded from %s", new.path)


def _texts(loaded: LoadedConfig) -> dict[str, str]:
    return {"auth_file": loaded.auth_text, **loaded.files}


def _tell(found: Sequence[Change]) -> None:
    for change in found:
        if change.needs is Reload.RESTART:
            log.warning("%s: takes effect when poolproxy is restarted", change)
        else:
            log.info("changed: %s", change)


def worker_count(settings: Settings) -> int:
    """How many workers there are to be."""
    return settings.workers or len(os.sched_getaffinity(0))
