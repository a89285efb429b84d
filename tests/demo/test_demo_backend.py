from __future__ import annotations

import pytest

from poolproxy.demo.backend import Backend, BadURL, parse_backend
from poolproxy.demo.config import render_config, render_userlist


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://ann:s%40c@db.example:5433/shop",
            Backend("db.example", 5433, "ann", "s@c", "shop"),
        ),
        ("postgres://ann@localhost", Backend("localhost", 5432, "ann", "", "ann")),
        ("postgresql://ann@[::1]/x%20y", Backend("::1", 5432, "ann", "", "x y")),
        ("postgresql://ann@/shop?host=/run/pg", Backend("/run/pg", 5432, "ann", "", "shop")),
    ],
)
def test_urls_are_read_as_libpq_does(url: str, expected: Backend) -> None:
    """Missing parts get libpq's defaults, and escapes are undone."""
    assert parse_backend(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://ann@host/x", "must begin with postgresql://"),
        ("host=localhost", "must begin with postgresql://"),
        ("postgresql://host/x", "must name the user"),
        ("postgresql://ann@host:many/x", "[Pp]ort"),
        ("postgresql://ann@[::1/x", "IPv6"),
    ],
)
def test_bad_urls_are_refused(url: str, reason: str) -> None:
    """A URL that can't be used is refused with the reason."""
    with pytest.raises(BadURL, match=reason):
        parse_backend(url)


@pytest.mark.parametrize("password", ["plain", 'with "quotes"', ""])
def test_the_files_are_without_mistakes(password: str) -> None:
    """The configuration and the userlist hold what the backend says, whatever characters it has."""
    from poolproxy.auth.userlist import parse_userlist
    from poolproxy.settings.toml import load_toml

    backend = Backend("/run/pg", 5433, 'a"b', password, "dä\\ta.base")
    config = load_toml(render_config(backend, 6000, 6001), "demo.toml")
    pool = config.pool(backend.database, backend.user)
    assert pool is not None
    (host,) = pool.hosts
    assert (host.name, host.port, pool.dbname) == ("/run/pg", 5433, backend.database)
    assert parse_userlist(render_userlist(backend), "u") == ({backend.user: password}, ())
