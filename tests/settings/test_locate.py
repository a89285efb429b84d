from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.settings.locate import Locator
from poolproxy.settings.values import quoted

TEXT = '''\
# [databases.fake]
[poolproxy] # a comment with [brackets] and "quotes
listen_addr = [
    "127.0.0.1", # port = 1
    "]",
]
server_reset_query = """
pool_mode = "x"
[users.fake]
say ""hello"""""
server_check_query = \'\'\'
it's = 1
\'\'\'
verbose = 1

[databases."my db"]
host = 'a"b'
"port" = 1
[databases]
inline = { host = "x", port = 5 }
dotted . host = "x"
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("poolproxy",), 2),
        (("poolproxy", "listen_addr"), 3),
        (("poolproxy", "server_reset_query"), 7),
        (("poolproxy", "server_check_query"), 11),
        (("poolproxy", "verbose"), 14),
        (("databases",), 16),
        (("databases", "my db"), 16),
        (("databases", "my db", "host"), 17),
        (("databases", "my db", "port"), 18),
        (("databases", "inline"), 20),
        (("databases", "inline", "port"), 20),
        (("databases", "dotted", "host"), 21),
        (("users", "fake"), None),
        (("nothing",), None),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_key_is_found_on_its_line(path: tuple[str, ...], line: int | None, newline: str) -> None:
    """Keys are told from what looks like them in strings, comments and arrays over lines."""
    assert Locator(TEXT.replace("\n", newline)).line(*path) == line


def test_an_empty_text_has_no_lines() -> None:
    """A text of nothing, or of comments alone, locates nothing."""
    assert Locator("").line("poolproxy") is None
    assert Locator("# nothing").line("poolproxy") is None


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x7f"), max_size=8
)
VALUES = st.one_of(
    st.integers(-5, 5),
    st.booleans(),
    st.text(st.sampled_from("a\"'#[]{}=\n\\"), max_size=12),
    st.lists(st.text(st.sampled_from("a\"'#[]="), max_size=4), max_size=3),
)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=5), max_size=5))
def test_every_key_of_any_document_is_found(tables: dict[str, dict[str, Any]]) -> None:
    """Whatever names and values a document has, each key is on the line it was written to."""
    lines, expected = [], {}
    for table, content in tables.items():
        lines.append(f"[{quoted(table)}]")
        expected[(table,)] = len(lines)
        for key, value in content.items():
            lines.append(f"{quoted(key)} = {json.dumps(value)}")
            expected[(table, key)] = len(lines)
    locator = Locator("\n".join(lines))
    assert {path: locator.line(*path) for path in expected} == expected
