"""How a client must prove who it is: auth_type, the rules of auth_hba_file, and what they refer to.

The worker obeys this, and ``poolproxy check --auth`` explains it.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from poolproxy.auth.hba import Rule, Visit, first_match, parse_hba
from poolproxy.auth.ident import Entry, IdentMaps, parse_ident
from poolproxy.auth.ldap import LdapOptions, read_ldap
from poolproxy.auth.passfile import PassLine, parse_passfile
from poolproxy.auth.userlist import parse_groups, parse_userlist
from poolproxy.errors import Mistake, PoolerError
from poolproxy.settings.config import Config
from poolproxy.settings.enums import AuthType

NOT_AUTHORIZED = "28000"


# In front of the name of a file that auth_hba_file includes, where files go by their settings.
INCLUDED = "@"


@attrs.frozen
class AuthFiles:
    """What those files say. ``secrets`` are by user name and can be fed to ``parse_secret``;
    ``ldap_authorities`` is PEM.
    """

    secrets: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    rules: tuple[Rule, ...] = ()
    maps: IdentMaps = attrs.field(factory=dict)
    passwords: tuple[PassLine, ...] = attrs.field(default=(), repr=False)
    ldap_authorities: str = ""


def parse_auth_files(
    userlist: str, files: Mapping[str, str], sources: Mapping[str, str]
) -> tuple[AuthFiles, tuple[Mistake, ...]]:
    """Read the text of auth_file, and those of the others by the settings that name them.

    ``sources`` has the names of the files for messages, by the same settings.
    """
    secrets, mistakes = parse_userlist(userlist, sources.get("auth_file", ""))
    maps, more = parse_ident(files.get("auth_ident_file", ""), sources.get("auth_ident_file", ""))
    mistakes += more
    rules, more = parse_hba(
        files.get("auth_hba_file", ""),
        sources.get("auth_hba_file", ""),
        groups=parse_groups(userlist),
        files={n.removeprefix(INCLUDED): t for n, t in files.items() if n.startswith(INCLUDED)},
        maps=maps,
    )
    mistakes += more
    passwords, more = parse_passfile(files.get("passfile", ""), sources.get("passfile", ""))
    authorities = files.get("auth_ldap_ca_file", "")
    return AuthFiles(secrets, rules, maps, passwords, authorities), mistakes + more


@attrs.frozen
class Way:
    """The way in. ``method``: a name of ``poolproxy.auth.methods``; ``rule``: the one that has chosen it,
    None if it was auth_type; ``map``: the ident map to use, None without one. ``ldap`` with the PEM of
    ``ldap_authorities``, and ``pam_service``, are for those methods.
    """

    method: str
    rule: Rule | None = None
    map: tuple[Entry, ...] | None = None
    ldap: LdapOptions | None = None
    ldap_authorities: str = attrs.field(default="", repr=False)
    pam_service: str = ""


def way_in(config: Config, files: AuthFiles, visit: Visit) -> Way:
    """How this client must log in; raises PoolerError for one that must stay out."""
    auth_type = config.auth_type(visit.database, visit.user)
    if auth_type is AuthType.ANY:
        _demand_forced_user(config, visit)
    if auth_type is not AuthType.HBA:
        return _with_service(Way(auth_type.value), config, files)
    rule = first_match(files.rules, visit)
    if rule is None:
        raise PoolerError(
            "no authentication method is found",
            sqlstate=NOT_AUTHORIZED,
            hint="No line of auth_hba_file fits this client, database and user: add one.",
            reason="auth_hba_file",
        )
    if rule.method == "reject":
        raise PoolerError(
            "login rejected",
            sqlstate=NOT_AUTHORIZED,
            hint="A line of auth_hba_file rejects this client, database and user.",
            reason="auth_hba_file",
        )
    way = Way(rule.method, rule, files.maps[rule.map] if rule.map else None)
    return _with_service(way, config, files)


def _with_service(way: Way, config: Config, files: AuthFiles) -> Way:
    """What pam and ldap need to know; a rule's own options go before those of the proxy."""
    settings, rule = config.settings, way.rule
    if way.method == "pam":
        own = rule.pam_service if rule is not None else ""
        return attrs.evolve(way, pam_service=own or settings.auth_pam_service)
    if way.method == "ldap":
        options = rule.ldap if rule is not None else read_ldap(settings.auth_ldap_options)
        return attrs.evolve(way, ldap=options, ldap_authorities=files.ldap_authorities)
    return way


def _demand_forced_user(config: Config, visit: Visit) -> None:
    # The name is the client's choice, so it must not choose the user at PostgreSQL.
    pool = config.pool(visit.database, visit.user)
    if pool is not None and not pool.forced:
        raise PoolerError(
            "bouncer config error",
            hint="auth_type any needs a database with a user of its own.",
            reason="auth_type",
        )
