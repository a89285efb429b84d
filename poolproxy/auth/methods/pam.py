"""auth_type = pam: the system's PAM decides."""

from __future__ import annotations

from poolproxy.auth.delegated import Delegated
from poolproxy.auth.exchange import method


@method("pam")
class Pam(Delegated):
    """By the PAM service that auth_pam_service names."""

    failed = "PAM authentication failed"
    hint = "Check the password, and what the PAM service (auth_pam_service) says to it."
