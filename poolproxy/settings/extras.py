"""Libraries that only some configurations need: the extras of the package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from poolproxy.errors import Mistake
from poolproxy.settings.access import AuthFiles
from poolproxy.settings.config import Config

# By the method of authentication that needs it: the extra is called as the method.
MODULES = {"pam": "pam", "ldap": "ldap3"}


def missing_libraries(config: Config, auth: AuthFiles) -> Iterator[Mistake]:
    """A mistake for each library that is needed and not installed."""
    where = {rule.method: rule.where for rule in reversed(auth.rules)}
    where |= {auth_type.value: f"{config.source}: auth_type" for auth_type in config.auth_types()}
    for method, module in MODULES.items():
        if method in where and find_spec(module) is None:
            text = (
                f"{method} needs a library that is not installed: pip install 'poolproxy[{method}]'"
            )
            yield Mistake(where[method], text)
