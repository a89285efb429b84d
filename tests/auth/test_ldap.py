"""The options of LDAP, and what they make of a user's name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.utils.dn import parse_dn

from poolproxy.auth.hba import Visit, first_match, parse_hba
from poolproxy.auth.ldap import LdapOptions, escaped, ldap_options, read_ldap

SERVER = "ldapserver=ldap.example.org"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f'{SERVER} ldapprefix="uid=" ldapsuffix=",dc=example,dc=org"',
            {"port": 389, "prefix": "uid=", "suffix": ",dc=example,dc=org", "base": None},
        ),
        (
            'ldapserver="one two" ldapport=1389 ldaptls=1 ldapsuffix=@example.org',
            {"servers": ("one", "two"), "port": 1389, "starttls": True, "suffix": "@example.org"},
        ),
        (
            f'{SERVER} ldapscheme=ldaps ldapbasedn="dc=x" ldapbinddn=cn=r ldapbindpasswd="a b"',
            {
                "port": 636,
                "base": "dc=x",
                "filter": "(uid=$username)",
                "bind_dn": "cn=r",
                "bind_password": "a b",
                "scope": "sub",
            },
        ),
        (
            f'{SERVER} ldapbasedn="" ldapsearchattribute=mail',
            {"base": "", "filter": "(mail=$username)"},
        ),
        (
            f"{SERVER} ldapbasedn=dc=x ldapsearchfilter=cn=$username",
            {"filter": "(cn=$username)"},
        ),
        (
            'ldapurl="ldaps://h:1636/dc=a%20b,dc=c?cn?one"',
            {
                "servers": ("h",),
                "scheme": "ldaps",
                "port": 1636,
                "base": "dc=a b,dc=c",
                "scope": "one",
                "filter": "(cn=$username)",
            },
        ),
        (
            'ldapurl="ldap://h/dc=c??sub?(uid=$username)" ldapbinddn=cn=r',
            {"port": 389, "scope": "sub", "filter": "(uid=$username)", "bind_dn": "cn=r"},
        ),
        ('ldapurl="ldap://h/dc=c"', {"scope": "base", "filter": "(uid=$username)"}),
    ],
)
def test_options(text: str, expected: dict[str, object]) -> None:
    """Each option, in quotes or not, and the same by a URL."""
    found = read_ldap(text)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "ldapserver or ldapurl is missing"),
        ("ldapserver", "is no option"),
        ("what=x", '"what" is no option'),
        (f"{SERVER} ldapscope=sub", "is no option"),
        (SERVER, "neither ldapbasedn"),
        (f"{SERVER} ldapbinddn=cn=x", "neither ldapbasedn"),
        ('ldapserver=" " ldapprefix=x', "is missing"),
        (f"{SERVER} ldapport=0 ldapprefix=x", "ldapport is a number"),
        (f"{SERVER} ldapport=99999 ldapprefix=x", "ldapport is a number"),
        (f"{SERVER} ldapscheme=http ldapprefix=x", "ldapscheme"),
        (f"{SERVER} ldaptls=yes ldapprefix=x", "ldaptls"),
        (f"{SERVER} ldaptls=1 ldapscheme=ldaps ldapprefix=x", "ldaptls"),
        (f"{SERVER} ldapprefix=x ldapbasedn=dc=x", "ldapbasedn is for a search"),
        (f"{SERVER} ldapsuffix=x ldapbindpasswd=secret", "ldapbindpasswd is for a search"),
        (
            f'{SERVER} ldapbasedn=x ldapsearchattribute=a ldapsearchfilter="(a=$username)"',
            "exclude each other",
        ),
        (f'{SERVER} ldapbasedn=x ldapsearchfilter="(uid=ann)"', "needs $username"),
        (f"{SERVER} ldapbasedn=dc=a,dc=b", "needs quotes"),
        ("ldapurl=http://h/x", "ldapurl is"),
        ("ldapurl=ldap://u@h/x", "ldapurl is"),
        ("ldapurl=ldap://h:port/x", "can't be read"),
        ("ldapurl=ldap://h/x??all", "its scope is"),
        ("ldapurl=ldap://h/x??sub?(uid=$username)?ext", "no extensions"),
        ("ldapurl=ldap:///x", "is missing"),
        (f'{SERVER} ldapbindpasswd="secret', "not closed"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    """Each is named, and no value of a secret is shown."""
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_ldap(text)
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """With ValueError and nothing else."""
    for one in (text, f"{SERVER} {text}", f'ldapurl="{text}"'):
        try:
            read_ldap(one)
        except ValueError:
            pass


# As names arrive: text, and bytes that are no UTF-8 as surrogates.
NAMES = st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF
)


@given(st.text(NAMES, min_size=1))
def test_a_name_is_one_value_of_a_dn(name: str) -> None:
    """By the parser of another library: whatever the name, the DN has the parts that it should have."""
    found = ldap_options([SERVER, "ldapprefix=uid=", "ldapsuffix=,dc=org"])
    parts = parse_dn(found.dn(name))
    assert [(kind, end) for kind, _, end in parts] == [("uid", ","), ("dc", "")]
    assert parts[0][1] == escaped(name)


@given(st.text())
def test_a_name_is_one_value_of_a_filter(name: str) -> None:
    """Nothing is left of what a filter is made of, and the bytes are the name's."""
    text = escaped(name)
    assert not set(text) & set('*()\0&|=<>~,;+"# /')
    raw = re.sub(rb"\\(..)", lambda m: bytes.fromhex(m[1].decode()), text.encode())
    assert raw == name.encode("utf-8", "surrogateescape")


def test_secrets_stay_out_of_sight() -> None:
    """ldapbindpasswd does not show in a repr, which may go to a log."""
    assert "secret" not in repr(LdapOptions(servers=("h",), port=1, bind_password="secret"))


def test_in_auth_hba_file() -> None:
    """A line has the options behind its method; without them, or with others', it is a mistake."""
    text = (
        f'host all all all ldap {SERVER} ldapbasedn="dc=a, dc=b" ldapsearchattribute=cn\n'
        "local all all pam pamservice=other\nlocal all all ldap\n"
        "local all all pam map=m\nlocal all all md5 pamservice=x\n"
    )
    rules, mistakes = parse_hba(text, "hba", groups={}, files={}, maps={"m": ()})
    rule = first_match(rules, Visit("db", "ann", "10.0.0.1"))
    assert rule is not None
    assert rule.ldap is not None
    assert (rule.method, rule.ldap.base, rule.ldap.filter) == (
        "ldap",
        "dc=a, dc=b",
        "(cn=$username)",
    )
    assert rules[1].pam_service == "other"
    assert [str(mistake).partition(": ")[0] for mistake in mistakes] == ["hba:3", "hba:4", "hba:5"]
