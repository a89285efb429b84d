"""Settings: attrs classes are the table, everything else is derived from them. Pure."""

from poolproxy.settings.addresses import Address
from poolproxy.settings.capacity import Capacity, worst_case
from poolproxy.settings.config import ClientSettings, Config, PoolSettings
from poolproxy.settings.entries import DatabaseSettings, UserSettings
from poolproxy.settings.enums import AuthType, PoolMode
from poolproxy.settings.schema import Settings
from poolproxy.settings.toml import load_toml

__all__ = [
    "Address",
    "AuthType",
    "Capacity",
    "ClientSettings",
    "Config",
    "DatabaseSettings",
    "PoolMode",
    "PoolSettings",
    "Settings",
    "UserSettings",
    "load_toml",
    "worst_case",
]
