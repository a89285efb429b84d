"""How commands are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.admin.command import check_rights
from poolproxy.admin.registry import parse
from poolproxy.errors import PoolerError

GOOD = {
    "SHOW POOLS": ("SHOW", "", ""),
    "show pools;": ("SHOW", "", ""),
    "  Show\n\tPools ; ": ("SHOW", "", ""),
    "SELECT stats": ("SHOW", "", ""),
    "show": ("SHOW", "", ""),
    'SHOW "pools"': ("SHOW", "", ""),
    "show TimeZone": ("SHOW", "", ""),
    "pause": ("PAUSE", "", ""),
    "PAUSE shop": ("PAUSE", "shop", ""),
    'PAUSE "my ""db"""': ("PAUSE", 'my "db"', ""),
    "KILL_CLIENT 12": ("KILL_CLIENT", "12", ""),
    'kill_client "C-12"': ("KILL_CLIENT", "C-12", ""),
    "shutdown wait_for_clients": ("SHUTDOWN", "wait_for_clients", ""),
    "recycle  worker 1;": ("RECYCLE WORKER", "1", ""),
    "SET pool_mode = session": ("SET pool_mode=session", "pool_mode", "session"),
    "set pool_mode to 'session';": ("SET pool_mode=session", "pool_mode", "session"),
    "SET x='it''s'": ("SET x=it's", "x", "it's"),
    "SET query_timeout=1.5": ("SET query_timeout=1.5", "query_timeout", "1.5"),
    "SET extra_float_digits = 3": ("SET", "extra_float_digits", "3"),
}


@pytest.mark.parametrize("text", GOOD)
def test_commands_are_read(text: str) -> None:
    """Verb, word and value, in any of the ways to write them; the tag is the verb."""
    call = parse(text)
    assert call is not None
    assert (call.tag, call.argument, call.value) == GOOD[text]


@pytest.mark.parametrize("text", ["", " ", ";", " \n;; "])
def test_nothing_is_no_command(text: str) -> None:
    """An empty query is none, and no error."""
    assert parse(text) is None


BAD = {
    "foo": "invalid command 'foo', use SHOW HELP;",
    "SELECT 1": "invalid command 'SELECT 1', use SHOW HELP;",
    "SHOW POOLS; SHOW STATS": "invalid command 'SHOW POOLS; SHOW STATS', use SHOW HELP;",
    "BEGIN": "invalid command 'BEGIN', use SHOW HELP;",
    "RELOAD now": "invalid command 'RELOAD now', use SHOW HELP;",
    "PAUSE my-db": "invalid command 'PAUSE my-db', use SHOW HELP;",
    "SHUTDOWN please": "invalid command 'SHUTDOWN please', use SHOW HELP;",
    "SET": "invalid command 'SET', use SHOW HELP;",
    "SET pool_mode": "invalid command 'SET pool_mode', use SHOW HELP;",
    "RECYCLE WORKER": "a worker is required",
    "DISABLE": "a database is required",
    "KILL_CLIENT": "invalid client pointer supplied",
    "KILL_CLIENT x": "invalid client pointer supplied",
    f"PAUSE {'x' * 129}": "bad arguments",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_command_is_refused(text: str) -> None:
    """PgBouncer's errors, with what was given in them."""
    with pytest.raises(PoolerError) as caught:
        parse(text)
    assert (caught.value.message, caught.value.severity) == (BAD[text], "ERROR")


@given(st.text())
def test_garbage_is_a_clear_error(text: str) -> None:
    """Whatever is sent is a command, nothing, or an error of bounded length."""
    error = None
    try:
        parse(text)
    except PoolerError as caught:
        error = caught
    assert error is None or (error.severity == "ERROR" and len(error.message) < 200)


@pytest.mark.parametrize(
    ("text", "allowed"),
    {"SHOW POOLS": True, "SET timezone = 1": True, "SHOW FDS": False, "RELOAD": False}.items(),
)
def test_rights(text: str, *, allowed: bool) -> None:
    """Who may only look may give SHOW commands, and set what is ignored."""
    call = parse(text)
    assert call is not None
    check_rights(call, admin=True)
    if allowed:
        check_rights(call, admin=False)
    else:
        with pytest.raises(PoolerError, match="admin access needed"):
            check_rights(call, admin=False)
