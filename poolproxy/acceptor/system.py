"""What is asked of the operating system once, at the start: descriptors and privileges."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import resource

import attrs

from poolproxy.errors import ConfigError, Mistake

log = logging.getLogger("poolproxy.acceptor")

# Standard streams, listeners, channels, the memfds and pipes of libraries.
SPARE_DESCRIPTORS = 64


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to the hard limit (workers inherit it) and return what we got."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("could not raise the file descriptor limit to %d: %s", hard, error)
    got, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    log.info("kernel file descriptor limit: %d (hard: %d)", got, hard)
    return got


def descriptors_needed(max_client_conn: int, servers: int) -> int:
    """The most one process may need: a single worker may come to hold every client and server."""
    return max_client_conn + servers + SPARE_DESCRIPTORS


def warn_of_few_descriptors(got: int, max_client_conn: int) -> None:
    """Warn if max_client_conn can't be reached with ``got`` descriptors."""
    needed = descriptors_needed(max_client_conn, 0)
    if needed > got:
        log.warning(
            "max_client_conn = %d needs about %d file descriptors, the limit is %d: "
            "raise it (ulimit -n, LimitNOFILE=) or lower max_client_conn",
            max_client_conn,
            needed,
            got,
        )


@attrs.frozen
class Account:
    """The account to become."""

    name: str
    uid: int
    gid: int


def find_account(name: str) -> Account:
    """The account of the setting ``user``; raises ConfigError if there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError([Mistake("user", f"there is no account {name!r}")]) from None
    return Account(name, entry.pw_uid, entry.pw_gid)


def become(account: Account) -> None:
    """Give up root for good. Raises ConfigError if that is not allowed."""
    if os.geteuid() == account.uid:
        return
    try:
        groups = [group.gr_gid for group in grp.getgrall() if account.name in group.gr_mem]
        os.setgroups([account.gid, *groups])
        os.setgid(account.gid)
        os.setuid(account.uid)
    except PermissionError as error:
        text = f"only root may become {account.name!r}; start as root or leave `user` out"
        raise ConfigError([Mistake("user", text)]) from error
