"""A hostile server sends every type of message where it has no place: nobody sees what is not his own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import attrs
import pytest

from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.fake_database import Conversation, FakeDatabase, result
from tests.system.protocol_client import message
from tests.system.rough_client import Closed, RoughClient, ServerError
from tests.system.test_failure_hostile_server import answering, tables
from tests.system.watching import eventually, metric
from tests.wire.test_violations import ANY_TIME, MESSAGES, said

IN_BLOCK = message(b"C", b"BEGIN\0") + message(b"Z", b"T")
SITUATIONS = ["instead", "behind", "in a transaction", "between two clients"]


@attrs.define
class Liar:
    """A database that sends ``sent`` where ``situation`` says, to queries that are "hostile"."""

    situation: str = ""
    sent: bytes = b""
    speak: threading.Event = attrs.Factory(threading.Event)

    def answer(self, talk: Conversation, sql: str) -> None:
        if sql != "hostile":
            talk.send(result(sql))
        elif self.situation == "instead":
            talk.send(self.sent)
        elif self.situation == "behind":
            talk.send(result(sql) + self.sent)
        else:
            talk.send(IN_BLOCK if self.situation == "in a transaction" else result(sql))
            self.speak.wait(5)
            talk.send(self.sent)


@attrs.define
class Stage:
    liar: Liar
    proxy: ProxyProcess

    def client(self) -> RoughClient:
        return RoughClient(self.proxy.port, timeout=5).log_in("limited", "db")

    def closes(self) -> float:
        return metric(self.proxy, r"poolproxy_pool_server_closes_total\{.*(violation|dirty).*\}")


@pytest.fixture(scope="module")
def stage(start_module_proxy: StartProxy) -> Iterator[Stage]:
    liar = Liar()
    with FakeDatabase(answering(liar.answer)) as database:
        yield Stage(liar, start_module_proxy(tables({"db": database.port})))


def answers_it(situation: str, code: str) -> bool:
    """Whether a Query may be answered by this."""
    return code == "Z" and situation == "instead"


def misled(liar: Liar, one: RoughClient) -> str:
    """Have the server lie to this client; the error that it hears, "" if it hears none."""
    in_transaction = liar.situation == "in a transaction"
    try:
        assert one.query("hostile") == ([] if in_transaction else [("hostile",)])
        liar.speak.set()
        if in_transaction:
            one.replies()
    except ServerError as error:
        return str(error)
    except Closed:
        pass
    return ""


@pytest.mark.parametrize("situation", SITUATIONS)
def test_no_message_reaches_anybody_else(stage: Stage, situation: str) -> None:
    """The client that it was sent to hears an error or its own answer, the next one its own answer."""
    workers = stage.proxy.worker_pids()
    for code in MESSAGES:
        if answers_it(situation, code) or (situation == "instead" and code in "TDCIGHcd"):
            continue
        stage.liar.situation, stage.liar.sent = situation, said(code)
        stage.liar.speak.clear()
        before = stage.closes()
        with stage.client() as one, stage.client() as other:
            error = misled(stage.liar, one)
            assert error in ("", "08006: unknown pkt"), code
            eventually(lambda n=before: stage.closes() == n + 1, 15, f"{code!r} ends its server")
            assert other.query(f"harmless {code}") == [(f"harmless {code}",)]
    assert stage.proxy.worker_pids() == workers


def test_what_may_come_at_any_time_goes_to_the_client_alone(stage: Stage) -> None:
    """Notices amid a transaction are its client's; nobody else ever hears of them."""
    for code, body in ANY_TIME.items():
        stage.liar.situation = "in a transaction"
        stage.liar.sent = message(code.encode(), body)
        stage.liar.speak.clear()
        with stage.client() as one, stage.client() as other:
            one.query("hostile")
            stage.liar.speak.set()
            assert one.read().code == code
            assert one.query("mine") == [("mine",)]
            assert other.query("his") == [("his",)]
