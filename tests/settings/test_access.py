"""Who must log in how, and who looks users up where."""

from __future__ import annotations

import pytest

from poolproxy.auth.hba import Visit
from poolproxy.errors import PoolerError
from poolproxy.settings import extras
from poolproxy.settings.access import AuthFiles, parse_auth_files, way_in
from poolproxy.settings.config import Config, Lookup
from poolproxy.settings.enums import AuthType
from poolproxy.settings.sections.authentication import AUTH_QUERY
from tests.settings.loading import load

TEXT = """
[poolproxy]
auth_type = "hba"
auth_hba_file = "hba"
auth_file = "users"
auth_user = "asker"

[databases.plain]
host = "h"
auth_type = "plain"

[databases.rules]
host = "h"

[databases.forced]
host = "h"
user = "app"
password = "p"
auth_type = "any"
auth_dbname = "plain"

[databases.own]
host = "h"
user = "app"
auth_user = "other"
auth_query = "select $1, 'x'"

[databases.off]
host = "h"
auth_user = ""

[users.ann]
auth_type = "trust"

[users.other]
password = "q"
"""


def config(more: str = "") -> Config:
    return load(TEXT + more)


def test_the_user_goes_before_the_database_before_the_proxy() -> None:
    """auth_type is taken from the nearest; an unknown database has the proxy's."""
    ours = config()
    assert ours.auth_type("plain", "ann") is AuthType.TRUST
    assert ours.auth_type("plain", "bob") is AuthType.PLAIN
    assert ours.auth_type("rules", "bob") is AuthType.HBA
    assert ours.auth_type("nowhere", "bob") is AuthType.HBA


def test_who_looks_users_up() -> None:
    """auth_user, auth_query and auth_dbname: the database's, else the proxy's; "" switches it off."""
    ours = config()
    assert ours.lookup("rules") == Lookup("rules", "asker", AUTH_QUERY)
    assert ours.lookup("forced") == Lookup("plain", "asker", AUTH_QUERY)
    assert ours.lookup("own") == Lookup("own", "other", "select $1, 'x'")
    assert ours.lookup("off") is None
    assert ours.lookup("nowhere") is None
    assert ours.lookup("pgbouncer") is None


def test_no_lookup_in_a_database_that_a_client_makes_up() -> None:
    """The template's users are looked up in auth_dbname only."""
    text = TEXT.replace('auth_user = "asker"', 'auth_user = "asker"\nauth_dbname = "plain"')
    ours = load(text + '[databases."*"]\nhost = "h"\n')
    assert ours.lookup("made up") == Lookup("plain", "asker", AUTH_QUERY)


def test_the_pool_of_auth_query_beside_a_forced_user() -> None:
    """A forced user's database has a second pool, for auth_query alone; clients never get it."""
    ours = config()
    own = ours.pool_of(("own", "other"))
    assert own is not None
    assert (own.user, own.forced, own.password) == ("other", False, "q")
    client = ours.pool("own", "other")
    assert client is not None
    assert (client.user, client.forced) == ("app", True)
    assert ours.pool_of(("own", "app")) == client
    assert ours.pool_of(("own", "stranger")) is None
    assert ours.pool_of(("forced", "asker")) is None  # its look-ups run elsewhere
    assert ours.pool_of(("plain", "anybody")) is not None


def test_the_nearest_password_or_command_counts() -> None:
    """The database's password or command goes before the user's."""
    more = """
[databases.command]
host = "h"
password_command = "one"
[databases.password]
host = "h"
password = "pw"
[users.eve]
password_command = "two"
"""
    ours = config(more)
    for database, user, expected in (
        ("command", "eve", (None, "one")),
        ("command", "other", (None, "one")),
        ("password", "eve", ("pw", "")),
        ("plain", "eve", (None, "two")),
        ("plain", "other", ("q", "")),
    ):
        pool = ours.pool(database, user)
        assert pool is not None
        assert (pool.password, pool.password_command) == expected


RULES = "local all all md5\nhost rules eve all reject\nhostssl rules all all cert map=m\n"


def way(visit: Visit) -> tuple[str, str]:
    files, mistakes = parse_auth_files(
        "", {"auth_hba_file": RULES, "auth_ident_file": "m a b\n"}, {"auth_hba_file": "hba"}
    )
    assert not mistakes
    found = way_in(config(), files, visit)
    return found.method, found.rule.where if found.rule is not None else ""


def test_the_way_in() -> None:
    """Rules count where auth_type is hba, and only there."""
    assert way(Visit("rules", "bob")) == ("md5", "hba:1")
    assert way(Visit("rules", "bob", "::1", tls=True)) == ("cert", "hba:3")
    assert way(Visit("plain", "eve", "::1")) == ("plain", "")
    assert way(Visit("rules", "ann", "::1")) == ("trust", "")
    assert way(Visit("forced", "eve", "::1")) == ("any", "")


@pytest.mark.parametrize(
    ("visit", "text"),
    [
        (Visit("rules", "eve", "::1"), "login rejected"),
        (Visit("rules", "bob", "::1"), "no authentication method is found"),
        (Visit("nowhere", "bob", "::1"), "no authentication method is found"),
    ],
)
def test_who_stays_out(visit: Visit, text: str) -> None:
    """A rule that rejects, and no rule at all."""
    with pytest.raises(PoolerError) as caught:
        way(visit)
    assert (caught.value.message, caught.value.sqlstate) == (text, "28000")
    assert caught.value.hint


def test_lists_of_names_come_with_the_rules() -> None:
    """The texts of included files travel by their names."""
    files, mistakes = parse_auth_files(
        "", {"auth_hba_file": "local all @list trust\n", "@list": "ann\n"}, {}
    )
    assert not mistakes
    assert files.rules[0].users.names == {"ann"}


# -- pam and ldap ---------------------------------------------------------------------------------

SERVICES = """
[poolproxy]
auth_type = "pam"
auth_pam_service = "ours"
auth_ldap_options = "ldapserver=one ldapprefix=uid="
auth_hba_file = "hba"

[databases.pam]
host = "h"

[databases.ldap]
host = "h"
auth_type = "ldap"

[databases.rules]
host = "h"
auth_type = "hba"
"""
SERVICE_RULES = """
host rules ann all ldap ldapserver=two ldapprefix=cn=
host rules bob all pam pamservice=theirs
host rules all all pam
"""


def test_services_and_their_options() -> None:
    """A rule's own options go before those of the proxy; the authorities are the same for all."""
    ours = load(SERVICES)
    texts = {"auth_hba_file": SERVICE_RULES, "auth_ldap_ca_file": "PEM"}
    files, mistakes = parse_auth_files("", texts, {})
    assert not mistakes

    def way(database: str, user: str) -> tuple[str, str, str]:
        found = way_in(ours, files, Visit(database, user, "10.0.0.1"))
        dn = found.ldap.dn(user) if found.ldap is not None else ""
        return found.method, found.pam_service + found.ldap_authorities, dn

    assert way("pam", "ann") == ("pam", "ours", "")
    assert way("ldap", "ann") == ("ldap", "PEM", "uid=ann")
    assert way("rules", "ann") == ("ldap", "PEM", "cn=ann")
    assert way("rules", "bob") == ("pam", "theirs", "")
    assert way("rules", "eve") == ("pam", "ours", "")


def test_missing_libraries_are_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that lacks is named, with who needs it; what is not used may be missing."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    rules = "host all all all ldap ldapserver=two ldapprefix=cn=\n"
    files, _ = parse_auth_files("", {"auth_hba_file": rules}, {"auth_hba_file": "hba"})
    found = [str(one) for one in extras.missing_libraries(load(SERVICES), files)]
    assert len(found) == 2
    assert "auth_type: pam needs a library" in found[0]
    assert found[0].endswith("pip install 'poolproxy[pam]'")
    assert found[1].endswith("pip install 'poolproxy[ldap]'")
    assert not list(extras.missing_libraries(config(), AuthFiles()))
    monkeypatch.undo()
    assert not list(extras.missing_libraries(load(SERVICES), files))
