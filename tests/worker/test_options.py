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


def ask(settings: Settings = SETTINGS, /, **parameters: str) -> Wishes:
    return wishes(Startup(0, {"user": "ann", **parameters}), settings, TRACKER)


def tracked(**parameters: str) -> dict[str, str]:
    """What is applied of a packet with these parameters."""
    return ask(**parameters).parameters


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


def test_every_parameter_is_taken() -> None:
    """Tracked or not, under the name that was given."""
    given = {"timezone": "UTC", "work_mem": "1MB", "my.Setting": "", "DATESTYLE": "ISO"}
    assert tracked(**given) == given


@pytest.mark.parametrize(
    "name", ["", "a b", "a-b", "1a", "a.", ".a", "a=b", "é", "a'b", "Session_Authorization"]
)
def test_what_can_be_no_parameter_is_refused_by_name(name: str) -> None:
    """With the setting that would let it pass."""
    error = refusal(**{name: "x"})
    assert error.message == f"unsupported startup parameter: {name}"
    assert "ignore_startup_parameters" in error.hint


def test_ignored_parameters_are_left_out() -> None:
    """Those of ignore_startup_parameters, in any spelling, but for the tracked ones."""
    settings = attrs.evolve(SETTINGS, ignore_startup_parameters=("work_mem", "a b", "TimeZone"))
    asked = {"Work_Mem": "1MB", "geqo": "off", "a b": "c", "timezone": "UTC"}
    assert ask(settings, **asked).parameters == {"geqo": "off", "timezone": "UTC"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(no, "") for no in ("false", "off", "of", "no", "n", "0", "OFF")],
        *[(yes, "true") for yes in ("true", "t", "ON", "yes", "1")],
        ("database", "database"),
    ],
)
def test_replication_is_read_as_postgresql_does(value: str, expected: str) -> None:
    """A boolean may be abbreviated; some drivers say explicitly that they want none."""
    assert ask(replication=value).replication == expected
    assert ask(replication=value).parameters == {}


@pytest.mark.parametrize("value", ["", "o", "maybe", "2", "Database", "truely"])
def test_another_replication_is_refused(value: str) -> None:
    """With PostgreSQL's own words."""
    error = refusal(replication=value)
    assert error.message == f'invalid value for parameter "replication": "{value}"'
    assert error.sqlstate == "22023"


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
    assert tracked(options=options)["timezone"] == "UTC"


def test_options_may_have_escaped_spaces_and_backslashes() -> None:
    r"""A backslash takes the next character as it is."""
    assert tracked(options=r"-c application_name=my\ app\\1") == {"application_name": r"my app\1"}


def test_options_are_cut_at_ascii_spaces_only() -> None:
    """As isspace() does in PostgreSQL; other spaces are part of the value."""
    assert tracked(options="-c application_name=a\u00a0b") == {"application_name": "a\u00a0b"}


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


def test_options_are_parameters_like_others() -> None:
    """Those that stand in the packet itself go before them, wherever they stand, as in PostgreSQL."""
    options = "-c geqo=off -c GEQO=on -c timezone=UTC"
    assert tracked(options=options) == {"geqo": "on", "timezone": "UTC"}
    assert tracked(TimeZone="CET", options=options) == {"geqo": "on", "TimeZone": "CET"}
    assert refusal(options="-c a.=1").message == "unsupported startup parameter in options: a."


@pytest.mark.parametrize("name", ["geqo", "options"])
def test_options_can_be_ignored(name: str) -> None:
    """By their own name, or all but the tracked ones by the name options."""
    settings = attrs.evolve(SETTINGS, ignore_startup_parameters=(name,))
    wish = ask(settings, options="-c geqo=off -c timezone=UTC")
    assert wish.parameters == {"timezone": "UTC"}
