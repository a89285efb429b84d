from __future__ import annotations

import pytest

from poolproxy.settings.capacity import Capacity, worst_case
from tests.settings.loading import load

AUTH = '[poolproxy]\nauth_file = "users.txt"\n'


def capacity(text: str, users: str = "ann bob") -> Capacity:
    return worst_case(load(AUTH + text), users.split())


def entry(name: str, lines: str = "") -> str:
    return f'[databases."{name}"]\nhost = "db"\n{lines}\n'


BOUNDED = {
    "two users": (entry("app", "pool_size = 3"), 6),
    "two databases": (entry("a", "pool_size = 3") + entry("b", "pool_size = 4"), 14),
    "reserve": (entry("app", "pool_size = 3\nreserve_pool_size = 2"), 10),
    "forced user": (entry("app", 'pool_size = 3\nuser = "owner"'), 3),
    "database's limit": (entry("app", "pool_size = 3\nmax_db_connections = 4"), 4),
    "no pool size, but a limit": (entry("app", "pool_size = 0\nmax_db_connections = 4"), 4),
    "a user's limit": (
        entry("a", "pool_size = 3") + entry("b", "pool_size = 3")
        + "[users.ann]\nmax_user_connections = 4\n",
        4 + 6,
    ),
    "a user's own size": (entry("a", "pool_size = 3") + "[users.ann]\npool_size = 9\n", 9 + 3),
    "users with a password": (entry("a", "pool_size = 3") + '[users.cyd]\npassword = "x"\n', 9),
    "users who cannot log in": (entry("a", "pool_size = 3") + "[users.cyd]\n", 6),
    "template, users limited": ("max_user_connections = 5\n" + entry("*"), 10),
}  # fmt: skip


@pytest.mark.parametrize(("text", "total"), BOUNDED.values(), ids=BOUNDED)
def test_the_worst_case_obeys_every_limit(text: str, total: int) -> None:
    """The figure is pools times sizes, held down by the limits of databases and users."""
    assert capacity(text).total == total


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        (entry("*"), "max_user_connections, or list the databases by name"),
        (entry("*", "max_db_connections = 3"), "max_user_connections"),
        (entry("app", "pool_size = 0"), "pool_size, max_db_connections or max_user_connections"),
    ],
)
def test_what_has_no_limit_names_what_would_give_one(text: str, cure: str) -> None:
    """Without a bound there is no figure, and the setting that is missing is named."""
    found = capacity(text)
    assert found.total is None
    assert f"to bound it set {cure}" in found.note


def test_without_users_nothing_is_opened() -> None:
    """When no user is known no server connection can be opened."""
    assert capacity(entry("app"), users="").total == 0


def test_the_reckoning_can_be_read() -> None:
    """The printed form has the total, each database's share and what bounds the sum."""
    text = entry("a", "pool_size = 3\nmax_db_connections = 5") + entry("b", "pool_size = 1")
    text += entry("c", 'user = "owner"')
    assert str(capacity(text)) == (
        "server connections in the worst case: 27\n"
        "  a: 5 (2 pools of 3, max_db_connections 5)\n"
        "  b: 2 (2 pools of 1)\n"
        "  c: 20 (1 pool of 20)"
    )
    limited = str(capacity(f"max_user_connections = 3\n{entry('a')}{entry('b')}"))
    assert limited.endswith("\n  max_user_connections bounds the sum")
    assert str(capacity(entry("*"))).splitlines()[1] == "  *: no limit (any number of databases)"


def test_pools_of_different_sizes_show_their_range() -> None:
    """Users with sizes of their own make a range."""
    text = entry("a", "pool_size = 3") + "[users.ann]\npool_size = 9\n"
    assert capacity(text).shares[0].why == "2 pools of 3 to 9"


def test_a_reserve_that_is_off_does_not_count() -> None:
    """With reserve_pool_timeout = 0 the reserve is never used."""
    text = "reserve_pool_timeout = 0\n" + entry("app", "pool_size = 3\nreserve_pool_size = 2")
    assert capacity(text).total == 6


def test_users_whom_auth_query_finds_have_no_number() -> None:
    """Where users are looked up only max_db_connections bounds what they open."""
    text = (
        '[poolproxy]\nauth_user = "asker"\n[databases.open]\nhost = "h"\n'
        '[databases.bound]\nhost = "h"\nmax_db_connections = 7\n'
        '[databases.forced]\nhost = "h"\nuser = "app"\npool_size = 3\nauth_dbname = "bound"\n'
        '[databases.both]\nhost = "h"\nuser = "app"\npool_size = 3\n'
        '[databases.any]\nhost = "h"\nuser = "app"\npool_size = 3\nauth_type = "any"\nauth_user = ""\n'
    )
    found = worst_case(load(text), [])
    shares = {share.database: share.connections for share in found.shares}
    assert found.total is None
    assert shares == {"open": None, "bound": 7, "forced": 3, "both": 6, "any": 3}
