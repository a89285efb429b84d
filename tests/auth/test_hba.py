"""pg_hba.conf and pg_ident.conf as PgBouncer reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.auth.hba import Rule, Visit, first_match, included_files, parse_hba
from poolproxy.auth.ident import Entry, may_be, parse_ident
from poolproxy.auth.userlist import parse_groups, parse_userlist

GROUPS = {"admins": frozenset({"ann", "bob"}), "night shift": frozenset({"eve"})}
FILES = {"names": '# a comment\nann, bob\n"c d"\n', "nested": "@names\n"}
MAPS = {"m": ()}


def parse(text: str) -> tuple[tuple[Rule, ...], list[str]]:
    rules, mistakes = parse_hba(text, "hba", groups=GROUPS, files=FILES, maps=MAPS)
    return rules, [str(mistake) for mistake in mistakes]


def method(text: str, visit: Visit) -> str:
    """The method of the rule that decides, "" if none does."""
    rules, mistakes = parse(text)
    assert not mistakes
    rule = first_match(rules, visit)
    return rule.method if rule is not None else ""


LOCAL = Visit("db", "ann")
TCP = Visit("db", "ann", "10.1.2.3")
TLS = Visit("db", "ann", "10.1.2.3", tls=True)
V6 = Visit("db", "ann", "2001:db8::7")


@pytest.mark.parametrize(
    ("line", "fitting"),
    [
        ("local all all trust", {LOCAL}),
        ("host all all all trust", {TCP, TLS, V6}),
        ("host all all 0.0.0.0/0 trust", {TCP, TLS}),
        ("host all all ::/0 trust", {V6}),
        ("hostssl all all all trust", {TLS}),
        ("hostnossl all all all trust", {TCP, V6}),
        ("host all all 10.1.2.3/32 trust", {TCP, TLS}),
        ("host all all 10.1.2.4/32 trust", set()),
        ("host all all 10.1.2.99/24 trust", {TCP, TLS}),
        ("host all all 10.0.0.0 255.0.0.0 trust", {TCP, TLS}),
        ("host all all 2001:db8:: ffff:ffff:: trust", {V6}),
        ("host all all 2001:db8::/32 trust", {V6}),
        ("HOST all all 2001:db9::/32 trust", set()),
    ],
)
def test_kinds_and_addresses(line: str, fitting: set[Visit]) -> None:
    """Each kind of line fits its connections, each form of address its clients."""
    found = {visit for visit in (LOCAL, TCP, TLS, V6) if method(line, visit)}
    assert found == fitting


@pytest.mark.parametrize(
    ("databases", "users", "visit", "fits"),
    [
        ("db", "ann", LOCAL, True),
        ("other,db", "eve,ann", LOCAL, True),
        ("other , db", "eve, ann", LOCAL, True),
        ("other", "ann", LOCAL, False),
        ("db", "Ann", LOCAL, False),
        ("sameuser", "all", Visit("ann", "ann"), True),
        ("sameuser", "all", LOCAL, False),
        ('"sameuser"', "all", Visit("sameuser", "ann"), True),
        ('"all"', "all", LOCAL, False),
        ('"all"', '"all"', Visit("all", "all"), True),
        ('"d ""b"', "all", Visit('d "b', "ann"), True),
        ("all", "@names", LOCAL, True),
        ("all", "@names", Visit("db", "c d"), True),
        ("all", "@names", Visit("db", "eve"), False),
        ("@names", "all", Visit("bob", "x"), True),
        ("all", "+admins", LOCAL, True),
        ("all", "+admins", Visit("db", "eve"), False),
        ("all", '+"night shift"', Visit("db", "eve"), True),
        ("all", '"+admins"', LOCAL, True),
        ("all", "all", Visit("db", "ann", replication=True), False),
        ("replication", "all", Visit("db", "ann", replication=True), True),
        ("replication", "all", LOCAL, False),
        ('"replication"', "all", Visit("replication", "ann"), True),
    ],
)
def test_databases_and_users(databases: str, users: str, visit: Visit, fits: bool) -> None:
    """Names, lists, keywords, quotes, files and groups; physical replication has a word of its own."""
    if users == '"+admins"':
        fits = False  # in quotes the sign is a part of the name
    assert bool(method(f"local {databases} {users} trust", visit)) is fits


def test_the_first_line_that_fits_decides() -> None:
    """Order counts, also for reject; where none fits there is no rule."""
    text = "local all eve reject\nlocal db all md5\nlocal all all scram-sha-256\n"
    assert method(text, Visit("db", "eve")) == "reject"
    assert method(text, Visit("db", "ann")) == "md5"
    assert method(text, Visit("x", "ann")) == "scram-sha-256"
    assert method(text, TCP) == ""


def test_password_is_plain() -> None:
    """The file's word for a clear-text password."""
    assert method("local all all password", LOCAL) == "plain"


def test_maps_belong_to_methods_that_have_names() -> None:
    """map= goes with peer and cert."""
    rules, mistakes = parse("local all all peer map=m\nhostssl all all all cert map=m\n")
    assert not mistakes
    assert [rule.map for rule in rules] == ["m", "m"]
    assert rules[1].where == "hba:2"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("guest all all trust", "none of local"),
        ("local all trust", "expected local"),
        ("host all all md5", "expected host"),
        ("host all all 10.0.0.0 md5", "needs a mask"),
        ("host all all 10.0.0.0/99 md5", "no address"),
        ("host all all 10.0.0.0 255.0.255.0 md5", "no address"),
        ("host all all :: ffff::1 md5", "no address"),
        ("host all all samehost md5", "not supported"),
        ("host all all .example.org md5", "not supported"),
        ("host all all db.example.org md5", "no address"),
        ("host all all 10.0.0.0 255.0.0.0", "expected|method is missing|needs a mask"),
        ("local all all kerberos", "none of trust"),
        ("host all all all peer", "local lines only"),
        ("host all all all cert", "hostssl lines only"),
        ("local all all md5 map=m", "no option"),
        ("local all all peer map=x", 'no map "x"'),
        ("local all all peer foo", "no option"),
        ("local all +nobody trust", "no user of auth_file"),
        ("local all @missing trust", "could not be read"),
        ("local all @nested trust", "includes a further"),
        ("local samerole all trust", "not supported"),
        ("local /^d all trust", "regular expressions"),
        ("local all /^d trust", "regular expressions"),
        ('local all "ann trust', "not closed"),
        ("local,host all all trust", "one word"),
    ],
)
def test_mistakes_have_their_line(line: str, words: str) -> None:
    """A broken line is told with file and line; the others are read all the same."""
    rules, mistakes = parse(f"# head\n{line}\nlocal all all trust # tail\n")
    assert len(rules) == 1
    assert len(mistakes) == 1
    assert mistakes[0].startswith("hba:2: ")
    assert any(word in mistakes[0] for word in words.split("|")), mistakes


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """No text makes the parsers raise."""
    parse(text)
    parse(f"local all all trust\n,\n{text}")
    included_files(text)
    parse_ident(text, "ident")
    parse_groups(text)


def test_included_files_are_named() -> None:
    """What has to be read beside the rules: files of the database and user fields, each once."""
    text = 'local @a all trust\nlocal all @a,@"b c" trust\nlocal all "@d" trust\n'
    assert included_files(text) == ["a", "b c"]


def test_groups_stand_behind_the_secret() -> None:
    """PgBouncer reads nothing there, so the file serves both; what is no group is left out."""
    text = '"ann" "x" +admins +"night shift" other\n"bob" "y" "2030" +admins\n"eve" "+admins"\n;"x" "y" +z\n'
    assert parse_groups(text) == {
        "admins": frozenset({"ann", "bob"}),
        "night shift": frozenset({"ann"}),
    }
    assert parse_userlist(text, "users")[1] == ()


# -- ident ----------------------------------------------------------------------------------------


def test_ident_maps() -> None:
    """MAP SYSTEM-USER USER, where the user all is anybody; quotes take that away."""
    maps, mistakes = parse_ident('m root app\nm "the boss" all # comment\nn ann "all"\n', "ident")
    assert not mistakes
    assert maps == {
        "m": (Entry("root", "app"), Entry("the boss", None)),
        "n": (Entry("ann", "all"),),
    }
    assert may_be(["root"], "app", maps["m"])
    assert may_be(["the boss"], "anybody", maps["m"])
    assert not may_be(["root"], "root", maps["m"])
    assert not may_be(["ann"], "app", maps["n"])


def test_without_a_map_names_are_equal() -> None:
    """A system user is the user of the same name; who has no name is nobody."""
    assert may_be(["ann"], "ann", None)
    assert not may_be(["ann"], "bob", None)
    assert not may_be([], "ann", None)


@pytest.mark.parametrize("line", ["m root", "m root app more", "m /^r app", "m root +g", "m a,b c"])
def test_ident_mistakes(line: str) -> None:
    """A line of another form is told with its place."""
    maps, mistakes = parse_ident(f"\n{line}\n", "ident")
    assert maps == {}
    assert [mistake.where for mistake in mistakes] == ["ident:2"]
