"""What a client may ask for in its start-up packet."""

from __future__ import annotations

import attrs
import pytest

from poolproxy.errors import PoolerError
from poolproxy.settings.schema import Settings
from poolproxy.wire.parameters import Tracker
from poolproxy.wire.startup import MAX_DATABASE, MAX_USER, Startup
from poolproxy.worker.options import Wishes, wishes
from tests.settings.loading import load_with

TRACKER = Tracker(["search_path"])
SETTINGS = load_with().settings


def ask(settings: Settings = SETTINGS, /, *, minor: int = 0, **parameters: str) -> Wishes:
    return wishes(Startup(minor, {"user": "ann", **parameters}), settings, TRACKER)


def tracked(**parameters: str) -> dict[str, str]:
    """The tracked values that come of a packet with these parameters."""
    return dict(TRACKER.items(ask(**parameters).values))


def refusal(settings: Settings = SETTINGS, /, **parameters: str) -> PoolerError:
    with pytest.raises(PoolerError) as caught:
        ask(settings, **parameters)
    return caught.value


def test_the_database_is_the_users_name_by_default() -> None:
    """An empty one too, as PostgreSQL does it."""
    assert ask().database == ask(database="").database == "ann"
    assert ask(database="db").database == "db"


@pytest.mark.parametrize(
    ("parameters", "message", "sqlstate"),
    [
        ({"user": ""}, "no username supplied", "28000"),
        ({"user": "é" * (MAX_USER // 2 + 1)}, "username too long", "28000"),
        ({"database": "é" * (MAX_DATABASE // 2 + 1)}, "database name too long", "3D000"),
    ],
)
def test_impossible_names_are_refused(
    parameters: dict[str, str], message: str, sqlstate: str
) -> None:
    """Lengths count in bytes."""
    error = refusal(**parameters)
    assert (error.message, error.sqlstate) == (message, sqlstate)


def test_the_longest_names_are_taken() -> None:
    """To the byte."""
    wish = ask(user="u" * MAX_USER, database="d" * MAX_DATABASE)
    assert (len(wish.user), len(wish.database)) == (MAX_USER, MAX_DATABASE)


def test_tracked_parameters_are_taken_in_any_spelling() -> None:
    """Under the tracker's own names."""
    assert tracked(timezone="UTC", DATESTYLE="ISO") == {"TimeZone": "UTC", "DateStyle": "ISO"}


def test_other_parameters_are_refused_by_name() -> None:
    """With the setting that would let them pass."""
    error = refusal(work_mem="1MB")
    assert error.message == "unsupported startup parameter: work_mem"
    assert "ignore_startup_parameters" in error.hint


def test_ignored_parameters_are_left_out() -> None:
    """Those of ignore_startup_parameters, and extra_float_digits if it is among them."""
    settings = attrs.evolve(SETTINGS, ignore_startup_parameters=("work_mem",))
    assert ask(settings, work_mem="1MB").values == TRACKER.nothing
    assert refusal(settings, geqo="off").message == "unsupported startup parameter: geqo"


@pytest.mark.parametrize("value", ["false", "off", "no", "0", "OFF"])
def test_no_replication_is_no_wish(value: str) -> None:
    """Some drivers say so explicitly."""
    assert ask(replication=value).values == TRACKER.nothing


@pytest.mark.parametrize("value", ["true", "database", "1", ""])
def test_replication_is_refused(value: str) -> None:
    """The hint says where to go."""
    assert "directly" in refusal(replication=value).hint


@pytest.mark.parametrize(
    "options",
    [
        "-c timezone=UTC",
        "-ctimezone=UTC",
        "--timezone=UTC",
        "  -c   timezone=UTC  ",
        "-c\ttimezone=UTC\n",
        r"-c time\zone=U\TC",
        "-c search_path=a -c timezone=CET --TimeZone=UTC",
    ],
)
def test_options_in_all_their_forms(options: str) -> None:
    """-c, -c joined, and two dashes; later ones win."""
    assert tracked(options=options)["TimeZone"] == "UTC"


def test_options_may_have_escaped_spaces_and_backslashes() -> None:
    r"""A backslash takes the next character as it is."""
    assert tracked(options=r"-c application_name=my\ app\\1") == {"application_name": r"my app\1"}


def test_options_are_cut_at_ascii_spaces_only() -> None:
    """As isspace() does in PostgreSQL; other spaces are part of the value."""
    assert tracked(options="-c application_name=a\u00a0b") == {"application_name": "a?b"}


def test_dashes_in_a_long_name_are_underscores() -> None:
    """PostgreSQL's own rule; the value keeps its dashes."""
    assert tracked(options="--search-path=a-b") == {"search_path": "a-b"}


def test_empty_options_ask_for_nothing() -> None:
    """As does a lone backslash at the end, which PostgreSQL drops."""
    for options in ("", "   ", "-c timezone=UTC \\"):
        ask(options=options)


@pytest.mark.parametrize("options", ["-c", "-c timezone", "-c =UTC", "-B 10", "--", "timezone=UTC"])
def test_options_in_another_form_are_refused(options: str) -> None:
    """PgBouncer's text tells which are allowed."""
    assert refusal(options=options).message == (
        "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed"
    )


def test_untracked_options_are_refused_or_ignored() -> None:
    """By their own name, or all of them by the name options."""
    refused = refusal(options="-c geqo=off")
    assert refused.message == "unsupported startup parameter in options: geqo"
    for name in ("geqo", "options"):
        settings = attrs.evolve(SETTINGS, ignore_startup_parameters=(name,))
        wish = ask(settings, options="-c geqo=off -c timezone=UTC")
        assert dict(TRACKER.items(wish.values)) == {"TimeZone": "UTC"}


def test_newer_protocols_are_negotiated() -> None:
    """A minor version or a protocol option that is unknown; nothing is negotiated otherwise."""
    assert not ask().negotiate
    assert ask(minor=2).negotiate
    wish = wishes(Startup(0, {"user": "ann", "_pq_.a": "1", "_pq_.b": ""}), SETTINGS, TRACKER)
    assert wish.negotiate
    assert wish.unknown_options == ("_pq_.a", "_pq_.b")
