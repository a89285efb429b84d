"""pgbouncer.ini with anything at all in it."""

from hypothesis import given
from hypothesis import strategies as st

from poolproxy.errors import ConfigError
from poolproxy.settings.build import DATABASES, USERS
from poolproxy.settings.entries import DatabaseSettings, UserSettings
from poolproxy.settings.field import settings_of
from poolproxy.settings.ini import pairs
from poolproxy.settings.toml import load_toml, take_over
from poolproxy.settings.write import to_toml
from tests.settings.ini import load

PIECES = st.sampled_from(
    [
        "[pgbouncer]",
        "[databases]",
        "[users]",
        "[poolproxy]",
        "[peers]",
        "%include",
        "more",
        "listen_port",
        "auth_file",
        "pool_mode",
        "app",
        "*",
        "=",
        "==",
        "'",
        '"',
        "''",
        "host=a",
        "host=",
        "port=1",
        "'x",
        "y'",
        '"x"',
        "0x1",
        "010",
        "-1",
        "1e3",
        ".",
        ";",
        "#",
        "[",
        "]",
        "\t",
        "\r",
        "\x00",
        "é",
        "∞",
        "٣",
    ]
)


@given(st.lists(st.one_of(PIECES, st.just("\n"), st.just(" "), st.text(max_size=3))).map("".join))
def test_any_text_is_a_configuration_or_mistakes(text: str) -> None:
    """Whatever stands in the file and in what it includes, the answer is a Config or a ConfigError."""
    for whole in (text, f"[pgbouncer]\n{text}", f"[pgbouncer]\n[databases]\n{text}"):
        try:
            load(whole, {"more": text})
        except ConfigError:
            continue


@given(st.text())
def test_any_connection_string_is_pairs_or_an_error(text: str) -> None:
    """pairs() yields what is not empty, or raises ValueError."""
    try:
        found = list(pairs(text))
    except ValueError:
        return
    assert all(key and value for key, value in found)


NAMES = st.text(min_size=1, max_size=8).filter(
    lambda name: "\0" not in name and "\n" not in name and name.isprintable()
)
QUOTED = NAMES.map(lambda name: "'" + name.replace("'", "''") + "'")
MAIN = st.lists(
    st.sampled_from(
        [
            "pool_mode=statement",
            "listen_addr=*,::1",
            "query_timeout=0.25",
            "tcp_user_timeout=1500",
            "workers=3",
            "unix_socket_mode=0700",
            "max_packet_size=0x1000",
            "server_check_query=",
            "auth_type=trust",
            "verbose=2",
            "client_tls_protocols=all",
            "track_extra_parameters=a,b",
            "metrics_listen=*:1",
            "session_state=pin",
        ]
    )
)


@given(
    MAIN, st.dictionaries(QUOTED, st.dictionaries(st.just("password"), QUOTED)), st.lists(QUOTED)
)
def test_what_is_converted_means_the_same(
    main: list[str], databases: dict[str, dict[str, str]], users: list[str]
) -> None:
    """The TOML of `config convert` gives an equal configuration, and so does what workers are sent."""
    entries = [
        f"{name} = host=h {' '.join(f'{k}={v}' for k, v in entry.items())}"
        for name, entry in databases.items()
    ]
    sections = ["[pgbouncer]", *main, "[users]", *(f"{user} =" for user in users), "[databases]"]
    config = load("\n".join([*sections, *entries, "'x' = host=h"]) + "\n")
    text = to_toml(config)
    for other in (
        take_over(text, "x"),
        *([load_toml(text, "x")] if "auth_type=trust" in main else []),
    ):
        assert other.settings == config.settings
        assert (other.databases, other.users) == (config.databases, config.users)


def test_all_of_an_entry_is_converted() -> None:
    """Each setting of [databases] and [users] survives, with its secret."""
    values = {
        "text": "a b'c",
        "name": "n",
        "list of hosts": "/tmp",
        "time": "7",
        "boolean": "1",
    }
    for table, cls in ((DATABASES, DatabaseSettings), (USERS, UserSettings)):
        words = []
        for setting in settings_of(cls):
            value = values.get(setting.kind.label, "3")
            if " or " in setting.kind.label:
                value = setting.kind.label.rpartition(" ")[2]
            words.append(f"{setting.name}='{value.replace(chr(39), chr(39) * 2)}'")
        lines = [line for line in words if "password_command" not in line]
        text = f"[pgbouncer]\n[{table}]\napp = {' '.join(lines)}\n"
        config = load(text)
        again = take_over(to_toml(config), "x")
        assert getattr(again, table) == getattr(config, table)
        given = [s.name for s in settings_of(cls) if s.name != "password_command"]
        assert all(getattr(getattr(config, table)["app"], name) is not None for name in given)
