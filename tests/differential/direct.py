"""What PostgreSQL itself answers to the clients of an example, each on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from poolproxy.demo.postgres import PostgresServer
from tests.differential.script import COPY, FLUSHED, NOTHING, READY, Batch, Example, Life, Who
from tests.fixtures.postgres import TRUSTING
from tests.system.protocol_client import FLUSH, SYNC, RawClient, Reply, close

# Behind a batch, to know where its answers end: Close of a portal that does not exist is answered in
# any state of a transaction and changes nothing, and nobody else closes so many at once.
CLOSES = close("no portal", "P") * 7
CLOSED = [Reply("3", b"")] * 7


@attrs.frozen
class Expected:
    """``answers`` to a life; after batch n the first ``marks[n]`` of them must have come.

    ``parameters``: what is reported at its log-in. Of batches that nobody waits for nothing is expected.
    """

    answers: tuple[Reply, ...]
    marks: tuple[int, ...]
    parameters: Mapping[str, str]


def expectations(server: PostgresServer, example: Example) -> dict[Who, Expected]:
    """Run all lives, one after the other."""
    lives = {
        Who(client, number): life
        for client, lives in enumerate(example.clients)
        for number, life in enumerate(lives)
    }
    return {who: _run(server, who, life) for who, life in lives.items()}


def _run(server: PostgresServer, who: Who, life: Life) -> Expected:
    address = (server.host, server.port)
    with RawClient(address, TRUSTING, server.user, **who.parameters(life)) as client:
        parameters = dict(client.parameters)
        answers: list[Reply] = []
        marks = []
        skipping = False
        for batch in life.batches:
            if batch.wait == NOTHING:
                break
            client.send(who.encode(batch.messages))
            found = [] if skipping and batch.wait == FLUSHED else _answers(client, batch)
            skipping = batch.wait != READY and (skipping or _codes(found).endswith("E"))
            answers += found
            marks.append(len(answers))
        return Expected(tuple(answers), tuple(marks), parameters)


def _answers(client: RawClient, batch: Batch) -> list[Reply]:
    if batch.wait == COPY:
        failed = "Z" if batch.messages[0][0] == "Query" else "E"
        return _read(client, lambda found: found[-1].code in ("G", failed))
    if batch.wait == FLUSHED:
        client.send(CLOSES, FLUSH)
        found = _read(client, lambda found: found[-7:] == CLOSED or found[-1].code == "E")
        return found[:-7] if found[-7:] == CLOSED else found
    client.send(CLOSES, SYNC)
    return _read(client, lambda found: found[-8:-1] == CLOSED and found[-1].code == "Z")[:-8]


def _read(client: RawClient, over: Callable[[list[Reply]], bool]) -> list[Reply]:
    found = [client.read()]
    while not over(found):
        found.append(client.read())
    return found


def _codes(replies: list[Reply]) -> str:
    return "".join(reply.code for reply in replies)
