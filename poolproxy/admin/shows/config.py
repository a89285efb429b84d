"""SHOW CONFIG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import View
from poolproxy.settings.build import Dialect
from poolproxy.settings.config import Config
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import Setting as Known
from poolproxy.settings.field import settings_of
from poolproxy.settings.ini import INI
from poolproxy.settings.pgbouncer import GLOBAL, WINDOWS, WITHOUT_DEFAULT, WITHOUT_MEANING
from poolproxy.settings.schema import Settings
from poolproxy.settings.toml import TOML

CONFFILE = "conffile"


@attrs.frozen
class Setting:
    """One setting of the proxy itself."""

    key: str = column(Type.TEXT, "The setting.")
    value: str | None = column(
        Type.TEXT,
        "What it is; times in seconds, sizes in bytes, booleans as 1 and 0. With a pgbouncer.ini as PgBouncer"
        " shows it: access modes are decimal, and NULL is what is not set.",
    )
    default: str | None = column(
        Type.TEXT, "What it is if nothing is said in a file of this format."
    )
    changeable: str = column(Type.TEXT, "yes: by RELOAD and SET; no: by a restart.")


@attrs.frozen
class WorkerSetting:
    """One setting as one worker has it."""

    worker: int = column(Type.INT, "The worker.")
    key: str = column(Type.TEXT, "The setting.")
    value: str = column(Type.TEXT, "What it is there, as SHOW CONFIG has it with TOML.")


def worker_rows(worker: int, settings: Settings) -> Iterator[Row]:
    """Those of a worker that obeys these settings."""
    for setting in sorted(settings_of(Settings), key=lambda setting: setting.name):
        value = _shown(setting, getattr(settings, setting.name), TOML)
        yield values_of(WorkerSetting(worker=worker, key=setting.name, value=value))


def _rows(view: View) -> Iterator[Row]:
    config = view.config
    found = _of_toml(config.settings) if config.idle is None else _of_pgbouncer(config, config.idle)
    yield from map(values_of, sorted(found, key=lambda row: row.key))


def _of_toml(settings: Settings) -> Iterator[Setting]:
    for setting in settings_of(Settings):
        yield Setting(
            key=setting.name,
            value=_shown(setting, getattr(settings, setting.name), TOML),
            default=_shown(setting, setting.default, TOML),
            changeable=_changeable(setting),
        )


def _of_pgbouncer(config: Config, idle: Mapping[str, str]) -> Iterator[Setting]:
    """As PgBouncer shows its file, with NULL for what is not set and has no default.

    A default is the text that a file would have, so an access mode is octal there.
    """
    for setting in settings_of(Settings):
        null = None if setting.name in WITHOUT_DEFAULT else ""
        value = _shown(setting, getattr(config.settings, setting.name), INI)
        default = _shown(setting, setting.ini_default, TOML)
        yield Setting(
            key=setting.name,
            value=value or null,
            default=default if null is not None else None,
            changeable=_changeable(setting),
        )
    for key in WITHOUT_MEANING.keys() - WINDOWS - {CONFFILE}:
        default = GLOBAL[key]
        yield Setting(key=key, value=idle.get(key, default), default=default, changeable="yes")
    yield Setting(key=CONFFILE, value=config.source, default=None, changeable="no")


def _shown(setting: Known, value: object, dialect: Dialect) -> str:
    return "" if setting.secret else dialect.write(setting, value)


def _changeable(setting: Known) -> str:
    return "no" if setting.reload is Reload.RESTART else "yes"


CONFIG = Show("CONFIG", columns_of(Setting), "The settings in use.", _rows)

WORKER_CONFIG = Show(
    "WORKER_CONFIG",
    columns_of(WorkerSetting),
    "The settings that each worker obeys: after a reload those of SHOW CONFIG.",
)
