"""Many clients on few servers get the answers that PostgreSQL gives to each of them alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from poolproxy.demo.postgres import PostgresServer
from tests.differential.arena import POOLED, Arena, arena
from tests.differential.conversation import Difference
from tests.differential.direct import Expected
from tests.differential.known import DYING, KNOWN, ORPHANS
from tests.differential.masks import LOSSES, MASKS, Mask
from tests.differential.programs import examples
from tests.differential.script import Example, Life, Who, query
from tests.differential.table import MODES
from tests.fixtures.postgres import SERVER
from tests.fixtures.proxy import StartProxy
from tests.fixtures.tls import Certificates, encrypted_server
from tests.system.support import client

# So many random examples for each test, always the same ones; or as many as the variable says, and new
# ones each time (or those of --hypothesis-seed).
SHORT = 5
ATTEMPTS = 10
LONG = int(os.environ.get("DIFFERENTIAL_EXAMPLES", "0"))

each_mode = pytest.mark.parametrize("mode", MODES)
patient = pytest.mark.timeout(600 + 5 * LONG)  # Hypothesis shrinks for 5 minutes at most


@pytest.fixture(scope="module")
def ground(
    postgres: PostgresServer, start_module_proxy: StartProxy, certificates: Certificates
) -> Iterator[Arena]:
    """One for all tests here, of each PostgreSQL."""
    with arena(postgres, start_module_proxy, certificates) as found:
        yield found


@pytest.fixture(scope="module")
def encrypted_ground(start_module_proxy: StartProxy, certificates: Certificates) -> Iterator[Arena]:
    """One whose server connections are encrypted, too."""
    with (
        encrypted_server(certificates, **SERVER) as server,
        arena(server, start_module_proxy, certificates, server_tls_sslmode="require") as found,
    ):
        yield found


def run_all(
    ground: Arena, first: Example, others: SearchStrategy[Example], masks: tuple[Mask, ...]
) -> None:
    """``first`` needs these masks; who gets which server is not its choice, so it may take a few runs."""
    missing = {mask.name for mask in masks if first.mode in mask.modes}
    for _ in range(ATTEMPTS):
        missing -= set(ground.run(first))
        if not missing:
            break
    assert not missing
    run_random(ground, others)


def run_random(ground: Arena, examples: SearchStrategy[Example]) -> None:
    """SHORT or LONG many of these."""

    @settings(
        max_examples=LONG or SHORT,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(examples)
    def run(one: Example) -> None:
        ground.run(one)

    run()


@each_mode
@patient
def test_answers_are_those_of_postgresql(ground: Arena, mode: str) -> None:
    """Every answer through the pool is PostgreSQL's but for the masks, each of which is needed."""
    run_all(ground, KNOWN[mode], examples(mode), MASKS)


@each_mode
@patient
def test_nothing_goes_astray_when_clients_and_servers_die(ground: Arena, mode: str) -> None:
    """With servers terminated, clients gone and queries cancelled at random, answers are still right, or
    errors that say so.
    """
    run_all(ground, DYING[mode], examples(mode, "server", "client", "query"), LOSSES)


@each_mode
@patient
def test_nothing_goes_astray_when_workers_die(ground: Arena, mode: str) -> None:
    """With worker processes killed and replaced at random: the clients that a killed one had are gone without
    a word, all others go on.
    """
    run_all(ground, ORPHANS[mode], examples(mode, "worker", "client", "recycle"), ())


ENCRYPTED = (
    "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where datname = %s and pid <> %s"
)


@pytest.mark.needs_system_postgres
@each_mode
@patient
def test_answers_over_encrypted_server_connections(encrypted_ground: Arena, mode: str) -> None:
    """The same over server connections that can't move, while all that can die does."""
    run_random(encrypted_ground, examples(mode, "server", "client", "query", "worker", "recycle"))
    own = encrypted_ground.pooled.connection.info.backend_pid
    with client(encrypted_ground.proxy, mode) as one:
        assert one.backend()
        found = encrypted_ground.admin.execute(ENCRYPTED, (POOLED, own)).fetchall()
    assert set(found) == {(True,)}


TALK = Example("transaction", ((Life((query("select '{me}'"), query("select '{me} again'"))),),))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda told: attrs.evolve(told, answers=(told.answers[0], *told.answers)),
        lambda told: attrs.evolve(told, answers=told.answers[:-1], marks=(4, 7)),
        lambda told: attrs.evolve(told, marks=(4, 9)),
        lambda told: attrs.evolve(told, parameters={**told.parameters, "TimeZone": "Mars"}),
    ],
    ids=["missing", "more", "fewer", "parameter"],
)
def test_a_difference_is_found(
    ground: Arena, wrong: Callable[[Expected], Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PostgreSQL would answer otherwise, more or less of, fails, and prints how to see it again."""
    monkeypatch.setattr("tests.differential.pooled.PATIENCE", 0.5)
    told = ground.expect(TALK)[Who(0, 0)]
    with pytest.raises(Difference) as failure:
        ground.compare(TALK, {Who(0, 0): wrong(told)})
    assert str(TALK) in str(failure.value)


def test_a_row_of_another_client_is_found(ground: Arena) -> None:
    """A tag that is not the client's own fails, even where it is what PostgreSQL would answer."""
    stranger = Example("transaction", ((Life((query("select '<9.9>'"),)),),))
    with pytest.raises(Difference, match=r"<9\.9>"):
        ground.run(stranger)
