from __future__ import annotations

import pytest

from tests.settings.loading import DATABASE, SOURCE, USER, load, mistakes

REST = DATABASE + USER


def proxy(lines: str) -> str:
    return f"[poolproxy]\n{lines}\n{REST}"


CONTRADICTIONS = {
    "nowhere to listen": (
        proxy('listen_addr = []\nunix_socket_dir = ""'),
        ":2: nowhere to listen on: set listen_addr, unix_socket_dir or both",
    ),
    "no database": (
        USER,
        ': databases: no database: there is none in [databases]; "*" stands for all of a server',
    ),
    "no database in the table": (
        f"{USER}[databases]\n",
        ':3: no database: there is none in [databases]; "*" stands for all of a server',
    ),
    "nobody": (
        f'[poolproxy]\nauth_type = "plain"\n{DATABASE}',
        ':2: nobody can log in: auth_type is "plain", but there is neither '
        "auth_file, nor a password of a user in [users], nor auth_user",
    ),
    "nobody by default": (
        f"[poolproxy]\n{DATABASE}",
        ':1: nobody can log in: auth_type is "md5", but there is neither '
        "auth_file, nor a password of a user in [users], nor auth_user",
    ),
    "hba without rules": (
        f'{USER}[poolproxy]\nauth_type = "hba"\n{DATABASE}',
        ':4: auth_type "hba" needs auth_hba_file',
    ),
    "ldap without a directory": (
        f'[poolproxy]\nauth_type = "ldap"\n{DATABASE}',
        ':2: auth_type "ldap" needs auth_ldap_options',
    ),
    "any without a user": (
        f'{USER}[poolproxy]\nauth_type = "any"\n[databases.db]\nhost = "h"\n',
        ':4: auth_type "any" needs a user here: the client\'s own name proves nothing',
    ),
    "any for a user": (
        f'{DATABASE}[users.ann]\npassword = "x"\nauth_type = "any"\n',
        ':5: auth_type "any" is for databases: it asks for no user',
    ),
    "auth_dbname of nothing": (
        f'{USER}[poolproxy]\nauth_dbname = "x"\n[databases.db]\nhost = "h"\n',
        ':4: auth_dbname: there is no database "x"',
    ),
    "auth_dbname of the console": (
        f'{USER}[databases.db]\nhost = "h"\nauth_dbname = "pgbouncer"\n',
        ':5: auth_dbname can\'t be "pgbouncer", the admin console',
    ),
    "look-ups where a client says": (
        f'{USER}[poolproxy]\nauth_user = "a"\n[databases."*"]\nhost = "h"\n',
        ':4: the database "*" needs auth_dbname: its users can\'t be looked up in a database whose name '
        "the client makes up, unless auth_query_anywhere allows it",
    ),
    "two passwords": (
        f'{USER}[databases.db]\nhost = "h"\npassword = "x"\npassword_command = "y"\n',
        ":6: password and password_command exclude each other",
    ),
    "command with an open quote": (
        f'{USER}[databases.db]\nhost = "h"\npassword_command = "a \'b"\n',
        ":5: password_command: No closing quotation",
    ),
    "console's name": (
        f"{REST}[databases.poolproxy]\n",
        ':5: the database name "poolproxy" is reserved for the admin console',
    ),
    "long database name": (
        f"{REST}[databases.{'x' * 64}]\n",
        ":5: a name in [databases] has 1 to 63 bytes",
    ),
    "empty user name": (f'{REST}[users.""]\n', ":5: a name in [users] has 1 to 127 bytes"),
    "min above default": (
        proxy("default_pool_size = 5\nmin_pool_size = 6"),
        ":3: min_pool_size (6) is more than default_pool_size (5)",
    ),
    "min above size": (
        f"{USER}{DATABASE}min_pool_size = 3\npool_size = 2\n",
        ":5: min_pool_size (3) is more than the pool's size (2)",
    ),
    "min of the proxy above size": (
        f"[poolproxy]\nmin_pool_size = 3\n{USER}{DATABASE}pool_size = 2\n",
        ":7: min_pool_size (3) is more than the pool's size (2)",
    ),
    "no host": (
        f'[poolproxy]\nunix_socket_dir = ""\n{USER}[databases.app]\n',
        ":5: no host, and unix_socket_dir is off: set host",
    ),
    "itself by address": (
        f'{USER}[databases.app]\nhost = "localhost"\nport = 6432\n',
        ":5: poolproxy itself listens on port 6432 of this host",
    ),
    "itself by socket": (
        f"{USER}[databases.app]\nport = 6432\n",
        ":4: poolproxy itself listens on port 6432 of this host",
    ),
    "itself by default port": (
        f'[poolproxy]\nlisten_port = 5432\nlisten_addr = "*"\n{USER}'
        '[databases.app]\nhost = "127.0.0.1"\n',
        ":7: poolproxy itself listens on port 5432 of this host",
    ),
}


@pytest.mark.parametrize(("text", "expected"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_told_at_its_place(text: str, expected: str) -> None:
    """Settings that are right by themselves but not together are told where they were given."""
    assert mistakes(text) == [SOURCE + expected]


SOUND = {
    "no limit of size": proxy("default_pool_size = 0\nmin_pool_size = 6"),
    "socket only": proxy("listen_addr = []"),
    "trust": f'[poolproxy]\nauth_type = "trust"\n{DATABASE}',
    "auth_file": f'[poolproxy]\nauth_file = "users.txt"\n{DATABASE}',
    "same port elsewhere": f"{REST}port = 6432\n".replace(REST, USER + DATABASE),
    "smaller minimum": f"{USER}{DATABASE}min_pool_size = 3\npool_size = 3\n",
}


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_a_sound_configuration_passes(text: str) -> None:
    """Nothing is refused that would work."""
    load(text)


FOLLOWING = {
    "no host": (f'{USER}[databases.app]\nhost = "a:1"\n[poolproxy]\nunix_socket_dir = ""\n', 4),
    "size": (proxy('default_pool_size = "x"\nmin_pool_size = 30'), 2),
    "no database": (f'{USER}[databases]\napp = "host=x"\n', 4),
    "nobody": (f"{DATABASE}[users.joe]\npassword = 1\n", 4),
}


@pytest.mark.parametrize(("text", "line"), FOLLOWING.values(), ids=FOLLOWING)
def test_a_mistake_does_not_bring_others_after_it(text: str, line: int) -> None:
    """What would only follow from a value that is wrong already is left out."""
    (mistake,) = mistakes(text)
    assert mistake.startswith(f"{SOURCE}:{line}: ")
