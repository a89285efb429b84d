"""auth_type = ldap: a directory decides."""

from __future__ import annotations

from poolproxy.auth.delegated import Delegated
from poolproxy.auth.exchange import method


@method("ldap")
class Ldap(Delegated):
    """By the directory of auth_ldap_options, or of the rule."""

    failed = "LDAP authentication failed"
    hint = "Check the password, and that the options of LDAP lead to the user's entry."
