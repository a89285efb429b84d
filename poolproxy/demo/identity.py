"""Running PostgreSQL as somebody who is not root, without changing the system.

initdb and postgres refuse to run with effective user id 0. As root there are two ways round:

* a user namespace in which root appears as user 1000: no account is needed, and the files stay
  root's, also below folders that nobody else may enter. Forbidden in some containers.
* the account ``postgres`` or ``nobody``, to which the data directory is given.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
ACCOUNTS = ("postgres", "nobody")

# Loaded here: between fork and exec as little as possible may happen.
_libc = ctypes.CDLL(None, use_errno=True)


class NoIdentity(Exception):
    """There is no way to run PostgreSQL as another user than root."""


@attrs.frozen
class Identity:
    """Whom the server's processes run as: ``account`` (None: whoever we are), ``namespace`` or not."""

    account: str | None = None
    namespace: bool = False

    def popen_arguments(self) -> dict[str, Any]:
        """Keyword arguments for subprocess that make a child run as this identity.

        The child is sent SIGQUIT (PostgreSQL: leave at once) when the thread that starts it ends,
        so that it does not outlive a parent killed by SIGKILL: start it from a thread that lasts.
        """
        arguments: dict[str, Any] = {"preexec_fn": _preparation(self.namespace, os.getpid())}
        if self.account is not None:
            entry = pwd.getpwnam(self.account)
            arguments |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        return arguments

    def own(self, path: Path) -> None:
        """Give a file, or a folder and all in it, to the identity."""
        if self.account is None:
            return
        entry = pwd.getpwnam(self.account)
        os.chown(path, entry.pw_uid, entry.pw_gid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder) / name, entry.pw_uid, entry.pw_gid, follow_symlinks=False)

    def can_run(self, executable: Path) -> bool:
        """Whether the identity can execute the file, which a private home folder may prevent."""
        try:
            asked = [str(executable), "--version"]
            return not subprocess.run(
                asked, capture_output=True, check=False, cwd="/", **self.popen_arguments()
            ).returncode
        except (OSError, subprocess.SubprocessError):
            return False


def choose_identity() -> Identity:
    """The identity that changes least: ourselves, else a user namespace, else an account.

    Raises NoIdentity.
    """
    if os.geteuid() != 0:
        return Identity()
    true = Path(shutil.which("true") or "/bin/true")
    candidates = [Identity(namespace=True)]
    candidates += [Identity(account=name) for name in ACCOUNTS if _exists(name)]
    for candidate in candidates:
        if candidate.can_run(true):
            return candidate
    raise NoIdentity(
        "PostgreSQL does not run as root, and here neither a user namespace nor the accounts "
        f"{' and '.join(ACCOUNTS)} can be used: start this as an ordinary user"
    )


def _exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True


def _preparation(namespace: bool, parent: int) -> Callable[[], None]:
    def prepare() -> None:
        if namespace:
            _leave_root()
        # After the change of credentials, which clears it.
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def _leave_root() -> None:
    if _libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    # setgroups must be denied before gid_map may be written: user_namespaces(7).
    for name, value in (("setgroups", "deny"), ("uid_map", "1000 0 1"), ("gid_map", "1000 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(value)
