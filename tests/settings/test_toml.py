from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.settings.build import Item, build
from poolproxy.settings.enums import PoolMode
from poolproxy.settings.schema import Settings
from poolproxy.settings.toml import TOML
from tests.settings.loading import DATABASE, SOURCE, USER, load, load_with, mistakes

PROXY = "[poolproxy]\n"
REST = DATABASE + USER


def test_a_configuration_is_loaded() -> None:
    """Tables, quoted names and units end up in the typed settings."""
    config = load_with('pool_mode = "transaction"\nserver_lifetime = "1h"', "pool_size = 3")
    assert config.settings.pool_mode is PoolMode.TRANSACTION
    assert config.settings.server_lifetime == 3600.0
    assert config.databases["app"].host == ("db.example",)
    assert config.databases["app"].pool_size == 3
    assert config.users["joe"].password == "secret"
    assert config.source == SOURCE


def test_what_is_left_out_has_its_default() -> None:
    """A configuration without [poolproxy] is one of defaults."""
    assert load(REST).settings == Settings()


def test_inline_and_dotted_tables_are_tables() -> None:
    """All of TOML's ways to write a table mean the same."""
    text = f'{USER}[databases]\napp = {{ host = "a" }}\nother.host = "b"\n'
    config = load(text)
    assert config.databases["app"].host == ("a",)
    assert config.databases["other"].host == ("b",)


def test_a_byte_order_mark_is_no_mistake() -> None:
    """Editors that begin a file with a byte order mark are forgiven."""
    assert mistakes("\ufeff" + PROXY + REST) == []


def test_an_empty_entry_is_an_entry() -> None:
    """A database or a user with no settings of its own still exists."""
    config = load(f"{USER}[databases.app]\n[users.bob]\n")
    assert set(config.databases) == {"app"}
    assert set(config.users) == {"joe", "bob"}


ONE_MISTAKE = {
    "value": (
        'pool_mode = "transction"',
        'pool_mode must be session, transaction or statement, not "transction"; '
        'did you mean "transaction"?',
    ),
    "range": ("listen_port = 70000", "listen_port must be a whole number, 1 to 65535, not 70000"),
    "boolean for number": (
        "max_client_conn = true",
        "max_client_conn must be a whole number, 1 or more, not true",
    ),
    "unknown": (
        "default_pool_sze = 3",
        'unknown setting default_pool_sze; did you mean "default_pool_size"?',
    ),
    "quite unknown": ("frobnicate = 3", "unknown setting frobnicate"),
    "other table": (
        "pool_size = 3",
        "pool_size has no place in [poolproxy]; it belongs into [databases.NAME], [users.NAME] or [peers.N]",
    ),
}


@pytest.mark.parametrize(("line", "text"), ONE_MISTAKE.values(), ids=ONE_MISTAKE)
def test_a_mistake_names_setting_and_cure(line: str, text: str) -> None:
    """A message tells the line, the setting, what was expected and what was found."""
    assert mistakes(f"{PROXY}{line}\n{REST}") == [f"{SOURCE}:2: {text}"]


STRUCTURE = {
    "key outside": (
        f"listen_port = 1\n{REST}",
        "1: listen_port stands outside of all tables; it belongs into [poolproxy]",
    ),
    "unknown key outside": (f"foo = 1\n{REST}", "1: foo stands outside of all tables"),
    "no table": (f"poolproxy = 1\n{REST}", "1: poolproxy must be a table: write [poolproxy]"),
    "unknown table": (
        f"[database.x]\nhost = 1\n{REST}",
        '1: unknown table [database]; did you mean "databases"?',
    ),
    "quite unknown table": (
        f"[servers]\n{REST}",
        "1: unknown table [servers]; there are [poolproxy], [databases.NAME], [users.NAME] or "
        "[peers.N]",
    ),
    "connection string": (
        f'[databases]\nx = "host=y"\n{REST}',
        "2: x must be a table: write [databases.x]",
    ),
    "key beside entries": (
        f"[databases]\nport = 1\n{REST}",
        "2: port must stand in a table of its own, [databases.NAME]",
    ),
    "dot in a name": (
        f'[databases.my.db]\nhost = "x"\n{REST}',
        '1: unknown setting db; a name with a dot needs quotes: [databases."my.db"]',
    ),
    "setting of the proxy": (
        f"{REST}max_client_conn = 3\n",
        "5: max_client_conn has no place in [users.NAME]; it belongs into [poolproxy]",
    ),
}


@pytest.mark.parametrize(("text", "expected"), STRUCTURE.values(), ids=STRUCTURE)
def test_a_setting_in_the_wrong_place_is_told_where_it_belongs(text: str, expected: str) -> None:
    """Misplaced keys, misspelt tables and unquoted names are told with the way to write them."""
    assert mistakes(text) == [f"{SOURCE}:{expected}"]


def test_all_mistakes_come_at_once_in_file_order() -> None:
    """One run shows every mistake, in the order of the file though tables are mixed in it."""
    text = (
        '[databases.pgbouncer]\nport = "x"\n[poolproxy]\nverbose = 9\n'
        '[users.joe]\npassword = "x"\n[databases.b]\nmin_pool_size = 30\nfoo = 1\n'
    )
    lines = [mistake.split(": ")[0] for mistake in mistakes(text)]
    assert lines == [f"{SOURCE}:{line}" for line in (1, 2, 4, 8, 9)]


SYNTAX = {
    "word without quotes": (
        "pool_mode = transaction",
        '2: invalid value; text and numbers with a unit need quotes: pool_mode = "..."',
    ),
    "unit without quotes": (
        "query_timeout = 30s",
        "2: expected newline or end of document after a statement; text and numbers with a unit "
        'need quotes: query_timeout = "..."',
    ),
    "no value": ("verbose", "2: expected '=' after a key in a key/value pair"),
    "twice": ("verbose = 1\nverbose = 2", "3: cannot overwrite a value"),
}


@pytest.mark.parametrize(("line", "expected"), SYNTAX.values(), ids=SYNTAX)
def test_broken_toml_is_told_with_its_line(line: str, expected: str) -> None:
    """A file that is not TOML gets its line and, for missing quotes, the cure."""
    assert mistakes(PROXY + line) == [f"{SOURCE}:{expected}"]


def test_a_string_without_end_is_told() -> None:
    """A mistake that tomllib finds only at the end of the file has the last line."""
    (mistake,) = mistakes(PROXY + 'user = """x\n')
    assert mistake.startswith(f"{SOURCE}:3: ")


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000])
def test_absurd_toml_is_a_mistake_like_others(text: str) -> None:
    """Nesting and numbers beyond Python's limits end in a message, not in a traceback."""
    (mistake,) = mistakes(text)
    assert mistake.startswith(f"{SOURCE}: ")


@pytest.mark.parametrize(
    "line", ["password = 4711", 'password = ""', "password = hunter4711", 'password = "4711\n"']
)
def test_no_message_shows_a_secret(line: str) -> None:
    """A wrong password stays out of messages, which end in terminals and logs."""
    (mistake, *_) = mistakes(f'{DATABASE}[users.joe]\n{line}\n[users.bob]\npassword = "x"\n')
    assert "4711" not in mistake


def test_no_repr_shows_a_secret() -> None:
    """Passwords stay out of whatever is printed of a configuration or of a pool."""
    config = load_with(database='password = "topmost"')
    assert "topmost" not in repr(config) + repr(config.pool("app", "joe"))
    assert "secret" not in repr(config)


def test_the_last_of_two_values_counts() -> None:
    """A front end whose format allows a key twice gets PgBouncer's rule, the last one counts."""
    items = [
        Item("poolproxy", None, "verbose", "1", "x:1"),
        Item("poolproxy", None, "verbose", "2", "x:2"),
        Item("databases", "app", "host", "db", "x:3"),
        Item("users", "joe", "password", "p", "x:4"),
    ]
    assert build(items, "x", TOML).settings.verbose == 2


@given(st.text())
def test_no_text_breaks_the_loader(text: str) -> None:
    """Whatever a file holds, the loader ends with a configuration or with mistakes."""
    assert mistakes(text)


@given(st.data())
def test_no_damage_breaks_the_loader(data: st.DataObject) -> None:
    """A good file cut and patched anywhere still ends with a configuration or with mistakes."""
    text = f'{PROXY}listen_addr = ["::1"]\nquery_timeout = "5s"\n{REST}'
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    patch = data.draw(st.text(st.sampled_from("[]{}\"'=#.,\n\\a1 "), max_size=4))
    for mistake in mistakes(text[:start] + patch + text[end:]):
        assert mistake.startswith(SOURCE)
