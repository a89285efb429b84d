"""SHOW CONFIG."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import View
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import settings_of
from poolproxy.settings.schema import Settings


@attrs.frozen
class Setting:
    """One setting of the proxy itself."""

    key: str = column(Type.TEXT, "The setting.")
    value: str = column(
        Type.TEXT, "What it is; times in seconds, sizes in bytes, booleans as 1 and 0."
    )
    default: str = column(Type.TEXT, "What it is if nothing is said.")
    changeable: str = column(Type.TEXT, "yes: by RELOAD and SET; no: by a restart.")


@attrs.frozen
class WorkerSetting:
    """One setting as one worker has it."""

    worker: int = column(Type.INT, "The worker.")
    key: str = column(Type.TEXT, "The setting.")
    value: str = column(Type.TEXT, "What it is there, as in SHOW CONFIG.")


def worker_rows(worker: int, settings: Settings) -> Iterator[Row]:
    """Those of a worker that obeys these settings."""
    for key, value in _values(settings):
        yield values_of(WorkerSetting(worker=worker, key=key, value=value))


def _values(settings: Settings) -> Iterator[tuple[str, str]]:
    for setting in sorted(settings_of(Settings), key=lambda setting: setting.name):
        value = getattr(settings, setting.name)
        yield setting.name, "" if setting.secret else plain(setting.name, value)


def _rows(view: View) -> Iterator[Row]:
    known = {setting.name: setting for setting in settings_of(Settings)}
    for key, value in _values(view.config.settings):
        setting = known[key]
        row = Setting(
            key=key,
            value=value,
            default=plain(key, setting.default),
            changeable="no" if setting.reload is Reload.RESTART else "yes",
        )
        yield values_of(row)


def plain(name: str, value: object) -> str:
    """A setting's value as PgBouncer's console shows it."""
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case float():
            return f"{value:.10g}"
        case int() if name.endswith("_mode"):
            return f"0{value:o}"
        case Enum():
            return str(value.value)
        case tuple():
            return ", ".join(plain("", item) for item in value)
        case _:
            return str(value)


CONFIG = Show("CONFIG", columns_of(Setting), "The settings in use.", _rows)

WORKER_CONFIG = Show(
    "WORKER_CONFIG",
    columns_of(WorkerSetting),
    "The settings that each worker obeys: after a reload those of SHOW CONFIG.",
)
