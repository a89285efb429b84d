"""One setting is one field: its default, how it is read, when a change counts, what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, overload

import attrs

from poolproxy.settings.enums import Reload
from poolproxy.settings.values import Kind

T = TypeVar("T")
_KEY = "setting"
_SAME = object()


@attrs.frozen
class Setting:
    """What is known of one setting. ``default`` None means: as the enclosing scope has it.

    ``ini_default`` holds in a pgbouncer.ini, where PgBouncer's own defaults are expected.
    """

    name: str
    default: Any
    kind: Kind[Any]
    reload: Reload
    doc: str
    secret: bool
    section: str
    ini_default: Any

    @property
    def default_text(self) -> str:
        """The default as TOML, or "" where there is none."""
        return "" if self.default is None else self.kind.write(self.default)


@overload
def setting(
    default: None,
    *,
    parse: Kind[T],
    doc: str,
    reload: Reload = ...,
    secret: bool = ...,
    section: str = ...,
    ini_default: object = ...,
) -> T | None: ...


@overload
def setting(
    default: T,
    *,
    parse: Kind[T],
    doc: str,
    reload: Reload = ...,
    secret: bool = ...,
    section: str = ...,
    ini_default: object = ...,
) -> T: ...


def setting(
    default: Any,
    *,
    parse: Kind[Any],
    doc: str,
    reload: Reload = Reload.LIVE,
    secret: bool = False,
    section: str = "",
    ini_default: object = _SAME,
) -> Any:
    """Declare a setting as an attrs field.

    ``section`` is given to the first field of a section and holds until the next one. A
    ``secret`` is kept out of the object's repr and its value out of every message.
    """
    given = default if ini_default is _SAME else ini_default
    facts = (parse, reload, doc, secret, section, given)
    return attrs.field(default=default, repr=not secret, metadata={_KEY: facts})


def settings_of(table: type) -> Iterator[Setting]:
    """The settings of a class that is made with :func:`setting`, in its order."""
    current = ""
    for field in attrs.fields(table):
        parse, reload, doc, secret, section, ini_default = field.metadata[_KEY]
        current = section or current
        yield Setting(field.name, field.default, parse, reload, doc, secret, current, ini_default)
