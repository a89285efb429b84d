"""PostgreSQL's frontend/backend protocol 3.0, sans-I/O.

https://www.postgresql.org/docs/current/protocol.html
"""

from __future__ import annotations

from poolproxy.wire import backend, frontend

HOT_MODULES = (backend, frontend)


def compiled_modules() -> tuple[str, ...]:
    """The hot modules that run as compiled extensions rather than as Python source."""
    return tuple(m.__name__ for m in HOT_MODULES if not (m.__file__ or "").endswith(".py"))


def is_compiled() -> bool:
    """Whether any compiled part is in use."""
    return bool(compiled_modules())
