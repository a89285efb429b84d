"""One file for each auth_type; the file registers its method."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules


def register_all() -> None:
    """Import every file of this folder: a new method needs no other change."""
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
