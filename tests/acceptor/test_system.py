"""Descriptors and privileges."""

from __future__ import annotations

import os
import pwd
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolproxy.acceptor.system import (
    SPARE_DESCRIPTORS,
    become,
    find_account,
    raise_descriptor_limit,
    warn_of_few_descriptors,
)
from poolproxy.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_descriptor_limit_is_raised_to_the_hard_one(limits: tuple[int, int]) -> None:
    """The soft limit of 1024 that most systems start with is no bound."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    assert raise_descriptor_limit() == limits[1]


def test_too_few_descriptors_for_max_client_conn_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning names the setting, the need and the cure; enough is silent."""
    warn_of_few_descriptors(1000 + SPARE_DESCRIPTORS, 1000)
    assert caplog.text == ""
    warn_of_few_descriptors(1000, 1000)
    assert "max_client_conn = 1000 needs about 1064 file descriptors" in caplog.text
    assert "LimitNOFILE" in caplog.text


def test_an_unknown_account_is_named() -> None:
    """The setting user takes a name of this system."""
    with pytest.raises(ConfigError, match="user: there is no account 'no-such-account'"):
        find_account("no-such-account")


def test_becoming_who_one_is_needs_no_rights() -> None:
    """A `user` that already runs the process is fine, root or not."""
    become(find_account(pwd.getpwuid(os.geteuid()).pw_name))


def test_root_is_given_up_for_good_and_others_are_refused() -> None:
    """As root the process becomes the account, groups included, and can't go back; anyone else is
    told that only root may.
    """
    script = """if True:
        import os
        from poolproxy.acceptor.system import become, find_account
        account = find_account("nobody")
        become(account)
        assert os.getresuid() == (account.uid,) * 3 and os.getresgid() == (account.gid,) * 3
        assert os.getgroups() == [account.gid]
        try:
            os.setuid(0)
        except PermissionError:
            print("gone")
    """
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if os.geteuid() == 0:
        assert result.stdout == "gone\n", result.stderr
    else:
        assert "only root may become 'nobody'" in result.stderr
