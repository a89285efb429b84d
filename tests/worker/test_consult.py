"""Asking a real LDAP directory and a real PAM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from poolproxy.auth.ldap import LdapOptions, read_ldap
from poolproxy.settings.access import Way
from poolproxy.worker import consult as module
from poolproxy.worker.consult import Unanswered, ask_directory, consult
from tests.fixtures.proxy import free_port
from tests.fixtures.services import BASE, EXPIRED, HOST, PEOPLE, Directory
from tests.fixtures.tls import Certificates

ldap = pytest.mark.needs_slapd
pam = pytest.mark.needs_pam_wrapper


def options(directory: Directory, kind: str) -> LdapOptions:
    """Each way to the same entries."""
    at = f"{HOST}:{directory.port}"
    reader = f'ldapbinddn="cn=reader,{BASE}" ldapbindpasswd="read only"'
    return read_ldap(
        {
            "simple": directory.simple,
            "searching": directory.searching,
            "mail": f'{directory.searching} ldapsearchfilter="(|(uid=$username)(mail=$username))"',
            "attribute": f"{directory.searching} ldapsearchattribute=cn",
            "url": f'{reader} ldapurl="ldap://{at}/{BASE}?uid?sub"',
            "url filter": f'{reader} ldapurl="ldap://{at}/ou=people,{BASE}??one?(cn=$username)"',
            "second server": directory.simple.replace(
                f"ldapserver={HOST}", f'ldapserver="127.0.0.9 {HOST}"'
            ),
        }[kind]
    )


@ldap
@pytest.mark.parametrize(
    "kind", ["simple", "searching", "mail", "attribute", "url", "url filter", "second server"]
)
def test_each_way_to_an_entry(directory: Directory, kind: str) -> None:
    """The right password is right, every other is wrong, and so is every one of a stranger."""
    found = options(directory, kind)
    for user, password in PEOPLE.items():
        assert ask_directory(found, "", user, password)
        assert not ask_directory(found, "", user, "wrong")
    assert not ask_directory(found, "", "stranger", PEOPLE["ann"])


@ldap
@pytest.mark.parametrize(
    "user",
    [
        "*",
        "a*",
        "ann)(uid=*",
        "*)(|(uid=ann",
        "ann,ou=people",
        "ann+cn=ann",
        f"ann,ou=people,{BASE}",
        "#616e6e",
        "\\61nn",
        " ",
        "ann\\",
        'a"',
        "\udcff",
        "x" * 127,
    ],
)
@pytest.mark.parametrize("kind", ["simple", "searching", "mail"])
def test_names_have_no_meaning(directory: Directory, kind: str, user: str) -> None:
    """What is special in a DN or a filter is but a character of a name that nobody has."""
    assert not ask_directory(options(directory, kind), "", user, PEOPLE["ann"])


@ldap
def test_encryption(directory: Directory, certificates: Certificates) -> None:
    """ldaps and StartTLS work with the authority that vouches for the directory, and with no other."""
    ca = certificates.ca.read_text()
    starttls = read_ldap(f"{directory.simple} ldaptls=1")
    ldaps = read_ldap(
        directory.simple.replace(str(directory.port), str(directory.tls_port)) + " ldapscheme=ldaps"
    )
    for found in (starttls, ldaps):
        assert ask_directory(found, ca, "ann", PEOPLE["ann"])
        assert not ask_directory(found, ca, "ann", "wrong")
        with pytest.raises(Unanswered, match=r"(?i)certificate.verify.failed"):
            ask_directory(found, "", "ann", PEOPLE["ann"])


@ldap
def test_what_is_no_answer(directory: Directory) -> None:
    """Nobody listens, the pooler's own log-in fails, two entries fit: that is not the user's fault."""
    closed = read_ldap(directory.simple.replace(str(directory.port), str(free_port())))
    with pytest.raises(Unanswered, match=HOST):
        ask_directory(closed, "", "ann", PEOPLE["ann"])
    stranger = read_ldap(directory.searching.replace("read only", "wrong"))
    with pytest.raises(Unanswered, match="ldapbinddn may not log in"):
        ask_directory(stranger, "", "ann", PEOPLE["ann"])
    both = read_ldap(f'{directory.searching} ldapsearchfilter="(|(uid=$username)(uid=bob))"')
    with pytest.raises(Unanswered, match="more than one entry"):
        ask_directory(both, "", "ann", PEOPLE["ann"])


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of one that takes connections and says nothing."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_directory_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that can't wait goes; the thread has an end of its own, by a time-out."""
    monkeypatch.setattr(module, "PATIENCE", 1)
    monkeypatch.setitem(module._limits, "ldap", trio.CapacityLimiter(1))
    with silent_server() as port:
        way = Way("ldap", ldap=read_ldap(f"ldapserver={HOST} ldapport={port} ldapprefix=x"))
        with trio.move_on_after(0.05) as scope:
            await consult(way, "ann", "x")
        assert scope.cancelled_caught
        limit = module._limits["ldap"]
        assert limit.borrowed_tokens == 1
        with trio.fail_after(20):
            assert await consult(way, "ann", "x") is None
            async with limit:  # by then the first thread is over, too
                pass


@pam
def test_pam(pam_environment: dict[str, str]) -> None:
    """Right, wrong, unknown, and an account that is not for this service; then a service that is none."""
    questions = [("pgbouncer", user, password) for user, password in PEOPLE.items()]
    questions += [("pgbouncer", "ann", "wrong"), ("pgbouncer", "stranger", "x")]
    questions += [("pgbouncer", EXPIRED, EXPIRED), ("missing", "ann", PEOPLE["ann"])]
    script = (
        "import json, sys\n"
        "from poolproxy.worker.consult import Unanswered, ask_pam\n"
        "def answer(question):\n"
        "    try: return ask_pam(*question)\n"
        "    except Unanswered as error: return str(error)\n"
        "print(json.dumps([answer(one) for one in json.load(sys.stdin)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(questions),
        env=os.environ | pam_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *answers, missing = json.loads(done.stdout)
    assert answers == [True] * len(PEOPLE) + [False] * 3
    assert missing.startswith('service "missing": ')
    assert "Traceback" not in done.stderr
