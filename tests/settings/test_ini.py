from __future__ import annotations

from pathlib import Path

import pytest

from poolproxy.errors import ConfigError
from poolproxy.settings.entries import DatabaseSettings, UserSettings
from poolproxy.settings.enums import AuthType, PoolMode
from poolproxy.settings.field import settings_of
from poolproxy.settings.files import Format, format_of, read_config
from poolproxy.settings.ini import DEEPEST
from poolproxy.settings.pgbouncer import DIFFERENT, GLOBAL, WITHOUT_DEFAULT, WITHOUT_MEANING
from poolproxy.settings.schema import Settings
from poolproxy.settings.sections.authentication import AUTH_QUERY
from tests.settings.ini import SOURCE, entry, load, load_main, mistakes

# -- lines ----------------------------------------------------------------------------------------


def test_a_file_as_it_is_found_in_the_field() -> None:
    """Comments, indentation, blanks around the sign and at the end of a line, sections in any order."""
    config = load(
        "; PgBouncer\n"
        "\t[users]\n"
        "  batch = pool_mode=session max_user_connections=5 \t\n"
        "  empty =\n"
        "# more\n"
        "   [databases] ; where they are\n"
        "app = host=10.0.0.5 port = 5433 dbname=app_v2 # no comment here\n".replace(
            " # no comment here", ""
        )
        + "* = host=10.0.0.5\n"
        "[pgbouncer]\r\n"
        "listen_addr = 127.0.0.1, ::1\r\n"
        "pool_mode=Transaction   \n"
        "auth_type =trust\n"
    )
    assert config.settings.listen_addr == ("127.0.0.1", "::1")
    assert config.settings.pool_mode is PoolMode.TRANSACTION
    assert config.settings.auth_type is AuthType.TRUST
    assert config.databases["app"] == DatabaseSettings(
        host=("10.0.0.5",), port=(5433,), dbname="app_v2"
    )
    assert set(config.databases) == {"app", "*"}
    assert config.users == {
        "batch": UserSettings(pool_mode=PoolMode.SESSION, max_user_connections=5),
        "empty": UserSettings(),
    }


def test_a_comment_is_only_one_at_the_start_of_a_line() -> None:
    """Later in a line ; and # are part of the value."""
    assert load_main("server_reset_query = SELECT 1; -- # all").server_reset_query == (
        "SELECT 1; -- # all"
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("'my db'", "my db"),
        ('"my db"', "my db"),
        ("'it''s'", "it's"),
        ('"say ""hi"""', 'say "hi"'),
        ("a.b-c_d*", "a.b-c_d*"),
        ("*", "*"),
    ],
)
def test_names_of_databases(name: str, found: str) -> None:
    """A name is bare, or in single or double quotes, which are doubled inside."""
    config = load(f"[databases]\n{name} = host=localhost\n[pgbouncer]\n")
    assert set(config.databases) == {found}


def test_the_last_value_counts() -> None:
    """A key that comes twice has its last value, and a database its last line as a whole."""
    config = load(
        "[pgbouncer]\nlisten_port = 1\nlisten_port = 2\n"
        "[databases]\napp = host=a pool_size=3\napp = host=b\n"
    )
    assert config.settings.listen_port == 2
    assert config.databases["app"] == DatabaseSettings(host=("b",))


def test_a_further_header_sets_back_to_the_defaults() -> None:
    """Each [pgbouncer] sets all back, but what has no default there, as auth_file."""
    settings = load_main("listen_port = 1\nauth_file = users\n[pgbouncer]\nmax_client_conn = 5")
    assert (settings.listen_port, settings.max_client_conn) == (6432, 5)
    assert settings.auth_file == "users"


def test_a_statement_may_follow_a_header_on_its_line() -> None:
    """PgBouncer reads on behind the bracket."""
    assert load("[databases][pgbouncer] listen_port = 5\n").settings.listen_port == 5


def test_included_files_go_on_where_they_stand() -> None:
    """The lines of an included file are of the section they stand in, and its sections go on behind."""
    config = load(
        "[databases]\n%include list\nlisten_port = 7\n",
        {"list": "app = host=a\n[pgbouncer]\nmax_client_conn = 9\n"},
    )
    assert config.databases == {"app": DatabaseSettings(host=("a",))}
    assert (config.settings.listen_port, config.settings.max_client_conn) == (7, 9)


def test_files_include_each_other_ten_deep() -> None:
    """The eleventh is a mistake, and no endless loop."""
    files = {f"{depth}": f"%include {depth + 1}\n" for depth in range(1, DEEPEST)}
    files[f"{DEEPEST}"] = "listen_port = 5\n"
    assert load("[pgbouncer]\n%include 1\n", files).settings.listen_port == 5
    text = "[pgbouncer]\n%include self\n"
    assert mistakes(text, {"self": "%include self\n"}) == [
        f"self:1: more than {DEEPEST} files include each other"
    ]


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("listen_port = 0x10", 16),
        ("listen_port = 010", 8),
        ("listen_port = +12", 12),
        ("unix_socket_mode = 0770", 0o770),
        ("log_connections = 0", False),
        ("log_connections = 5", True),
        ("query_timeout = 0.5", 0.5),
        ("query_timeout = .5", 0.5),
        ("query_timeout = 1e2", 100.0),
        ("tcp_user_timeout = 5000", 5.0),
        ("auth_type = SCRAM-SHA-256", AuthType.SCRAM_SHA_256),
        ("auth_query = SELECT a, b FROM f($1) -- 'x'", "SELECT a, b FROM f($1) -- 'x'"),
        ("ignore_startup_parameters = extra_float_digits, options", None),
        ("server_check_query =", ""),
        ("workers = 2", 2),
        ("metrics_listen = 127.0.0.1:9127", None),
    ],
    ids=str,
)
def test_values(line: str, value: object) -> None:
    """Numbers as strtol(base 0) reads them, booleans by number, times in seconds; our own keys too."""
    found = getattr(load_main(line), line.partition(" ")[0])
    assert found == value if value is not None else found


def test_words_for_a_number_are_not_told_to_be_one() -> None:
    """That 1 is to be written is said of what is on or off."""
    (mistake,) = mistakes("[pgbouncer]\nmax_client_conn = on\n")
    assert mistake.endswith('max_client_conn must be a whole number, 1 or more, not "on"')


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("listen_port = 12a", "listen_port must be a whole number"),
        ("listen_port = 09", "begins with 0 is octal"),
        ("log_connections = yes", 'log_connections must be 0 or 1, not "yes"; write 1'),
        ("query_timeout = 30s", "query_timeout must be a number of seconds"),
        ("query_timeout = -1", "query_timeout must be a number of seconds"),
        ("pool_mode = transction", 'did you mean "transaction"?'),
        ("listen_prot = 1", 'unknown setting listen_prot; did you mean "listen_port"?'),
        ("pool_size = 1", "pool_size has no place in [pgbouncer]; it belongs into [databases]"),
        ("listen_addr", 'expected "key = value"'),
        ("'listen_addr = *", 'expected "key = value"'),
        ("%include", "expected %include FILE"),
        ("%include nowhere", "nowhere: can't be read"),
    ],
    ids=str,
)
def test_what_pgbouncer_does_not_take_is_a_mistake(line: str, text: str) -> None:
    """Each is told with file and line, and what was expected or meant."""
    found = mistakes(f"[pgbouncer]\n{line}\n")
    assert len(found) == 1
    assert found[0].startswith(f"{SOURCE}:2: ")
    assert text in found[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host=a port=5433", DatabaseSettings(host=("a",), port=(5433,))),
        ("host = a  dbname= b", DatabaseSettings(host=("a",), dbname="b")),
        ("connect_query='set a = ''b'''", DatabaseSettings(connect_query="set a = 'b'")),
        ("password='a b' user=u", DatabaseSettings(password="a b", user="u")),
        ("pool_size=010", DatabaseSettings(pool_size=10)),
        ("pool_size=-1 min_pool_size=-1", DatabaseSettings()),
        ("reserve_pool=3", DatabaseSettings(reserve_pool_size=3)),
        ("query_wait_timeout=7", DatabaseSettings(query_wait_timeout=7.0)),
        ("", DatabaseSettings()),
    ],
    ids=str,
)
def test_connection_strings(text: str, found: DatabaseSettings) -> None:
    """Pairs of key and value, with single quotes; numbers are decimal there, and -1 is "not given"."""
    assert entry(f"app = {text}") == found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("host=", "host has no value"),
        ("host=''", "host has no value"),
        ("password='secret word", "the quotes around the value of password are not closed"),
        ("host", "expected key=value pairs"),
        ("password='secret'word", "the quotes around"),
        ("hots=a", 'unknown setting hots; did you mean "host"?'),
        ("port=0", "port must be"),
    ],
    ids=str,
)
def test_broken_connection_strings(text: str, fault: str) -> None:
    """The line is told, without what may be a password."""
    found = mistakes(f"[pgbouncer]\n[databases]\napp = {text}\n")
    assert len(found) == 1
    assert found[0].startswith(f"{SOURCE}:3: ")
    assert fault in found[0]
    assert "secret" not in found[0]


def test_all_mistakes_are_told_at_once() -> None:
    """In the order of lines, those of included files at their place."""
    text = "listen_port = 1\n[pgbouncer]\nlisten_prot = 1\n%include more\n[databsaes]\nx = 1\n"
    assert mistakes(text, {"more": "\nverbose = loud\n"}) == [
        f"{SOURCE}:1: listen_port stands outside of all sections; it belongs into [pgbouncer]",
        f'{SOURCE}:3: unknown setting listen_prot; did you mean "listen_port"?',
        'more:2: verbose must be a whole number, 0 to 3, not "loud"',
        f'{SOURCE}:5: unknown section [databsaes]; did you mean "databases"?',
    ]


def test_the_section_pgbouncer_is_needed() -> None:
    """A file without it is none of PgBouncer's; [poolproxy] is of the other format."""
    assert mistakes("[databases]\n") == [f"{SOURCE}: there is no section [pgbouncer]"]
    assert "unknown section [poolproxy]" in mistakes("[poolproxy]\n[pgbouncer]\n")[0]


def test_an_empty_file_of_the_distribution_runs() -> None:
    """Without databases, and with nobody who can log in, PgBouncer starts: that is noted."""
    config = load("[databases]\n[users]\n[pgbouncer]\nauth_type = md5\n")
    notes = [note.text for note in config.notes]
    assert any(note.startswith("no database") for note in notes)
    assert any(note.startswith("nobody can log in") for note in notes)


# -- PgBouncer's settings -------------------------------------------------------------------------


def test_every_setting_of_pgbouncer_is_known() -> None:
    """Each loads with its default; what has no meaning here is noted with a reason."""
    ours = {setting.name for setting in settings_of(Settings)}
    lines = [f"{name} = {default}" for name, default in GLOBAL.items()]
    config = load("[pgbouncer]\n" + "\n".join(lines) + "\n")
    noted = {note.text.split()[0] for note in config.notes if "does nothing here" in note.text}
    assert not config.settings.auth_file
    assert noted == GLOBAL.keys() - ours
    assert noted <= WITHOUT_MEANING.keys() <= GLOBAL.keys()
    assert GLOBAL.keys() >= WITHOUT_DEFAULT
    assert ours >= DIFFERENT.keys()


def test_defaults_are_those_of_pgbouncer() -> None:
    """A file that says nothing means what one means that repeats all of PgBouncer's defaults."""
    ours = {setting.name for setting in settings_of(Settings)}
    lines = [f"{name} = {default}" for name, default in GLOBAL.items() if name in ours]
    found, plain = load_main("\n".join(lines)), load_main("")
    different = {name for name in ours if getattr(found, name) != getattr(plain, name)}
    # Ours means the same, and leaves nothing to search_path.
    assert different == {"auth_query"}
    assert plain.auth_query == AUTH_QUERY


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("a.ini", "", Format.INI),
        ("a.toml", "[pgbouncer]\n", Format.TOML),
        ("pgbouncer.conf", "; x\n [pgbouncer]\n", Format.INI),
        ("poolproxy.conf", "[poolproxy]\n", Format.TOML),
    ],
)
def test_the_format_is_seen(name: str, text: str, format: Format) -> None:
    """By the name of the file, else by its section."""
    assert format_of(Path(name), text)[0] is format


def test_names_of_files_begin_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PgBouncer does it, for %include and for the files that settings name."""
    (tmp_path / "etc").mkdir()
    text = "%include etc/main\n[databases]\n* = host=localhost\n"
    (tmp_path / "etc" / "pgbouncer.ini").write_text(text)
    (tmp_path / "etc" / "main").write_text("[pgbouncer]\nauth_file = etc/users\n")
    (tmp_path / "etc" / "users").write_text('"ann" "secret"\n')
    monkeypatch.chdir(tmp_path)
    loaded = read_config("etc/pgbouncer.ini")
    assert loaded.secrets == {"ann": "secret"}
    assert "auth_file = etc/users" in loaded.text


def test_broken_lines_of_other_files_are_left_out(tmp_path: Path) -> None:
    """Lines of auth_file and auth_hba_file that can't be read are noted, and the others count."""
    (tmp_path / "users").write_text('"ann" "secret"\nbob secret\n"cat" "secret"\n')
    (tmp_path / "hba").write_text("local all all trust\nlocal all all nonsense\n")
    path = tmp_path / "pgbouncer.ini"
    path.write_text(
        f"[pgbouncer]\nauth_type = hba\nauth_file = {tmp_path}/users\n"
        f"auth_hba_file = {tmp_path}/hba\n[databases]\n* = host=localhost\n"
    )
    loaded = read_config(path)
    assert set(loaded.secrets) == {"ann", "cat"}
    assert [rule.method for rule in loaded.auth.rules] == ["trust"]
    broken, rule = map(str, loaded.notes)
    assert broken.startswith(f"{tmp_path}/users:2: broken users, line left out: expected")
    assert rule.startswith(f"{tmp_path}/hba:2: could not parse hba config line 2: ")
    assert "secret" not in broken.partition("expected")[0]


def test_the_format_is_said_with_mistakes(tmp_path: Path) -> None:
    """Who gives the wrong kind of file is told what it was taken for."""
    path = tmp_path / "a.ini"
    path.write_text('[poolproxy]\nlisten_port = "x"\n')
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert caught.value.read_as == f"{path} was read as PgBouncer's format: its name ends in .ini"


def test_files_that_include_each_other_twice_have_an_end(tmp_path: Path) -> None:
    """All that is read counts against one limit."""
    (tmp_path / "x").write_text(f"%include {tmp_path}/x\n%include {tmp_path}/x\n" + ";" * 2_000_000)
    path = tmp_path / "a.ini"
    path.write_text(f"[pgbouncer]\n%include {tmp_path}/x\n")
    with pytest.raises(ConfigError, match="is larger than"):
        read_config(path)
