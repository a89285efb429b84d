from __future__ import annotations

from poolproxy.ipc.messages import Resolved
from poolproxy.pool.names import Answer, Names

OLD, NEW = ("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.3")


def known(addresses: tuple[str, ...] = OLD) -> Names:
    """Worker 1 has asked for "db" at 0 s; believed for 15 s, failures for 5 s."""
    names = Names(15.0, 5.0)
    assert names.ask("db", 1, 0.0) is None
    names.answered("db", Answer(addresses), 0.0, [1, 2])
    return names


def test_a_name_is_looked_up_once_for_all() -> None:
    """Workers that ask while a look-up runs all get its answer."""
    names = Names(15.0, 5.0)
    assert names.ask("db", 1, 0.0) is None
    assert names.ask("db", 2, 0.1) == []
    sends, gone = names.answered("db", Answer(OLD), 0.2, [1, 2])
    assert sends == [(1, Resolved("db", OLD, "")), (2, Resolved("db", OLD, ""))]
    assert not gone


def test_an_answer_is_used_for_dns_max_ttl() -> None:
    """Until then there is no look-up; then there is, though nobody asks."""
    names = known()
    assert names.ask("db", 2, 14.0) == [(2, Resolved("db", OLD, ""))]
    assert names.next_deadline() == 15.0
    assert names.due(14.9) == []
    assert names.due(15.0) == ["db"]
    assert names.due(15.0) == []


def test_everybody_hears_of_every_change() -> None:
    """Whatever worker a server comes to knows the addresses that there were when it left; an order alone is
    none, and who has asked is told in any case.
    """
    names = known()
    assert names.due(15.0) == ["db"]
    sends, gone = names.answered("db", Answer(NEW), 15.0, [1, 2])
    assert gone == {"10.0.0.1"}
    assert sends == [(1, Resolved("db", NEW, "")), (2, Resolved("db", NEW, ""))]
    assert names.due(30.0) == ["db"]
    more = (*NEW, "::1")
    sends, gone = names.answered("db", Answer(more), 30.0, [1, 2])
    assert gone == frozenset()
    assert sends == [(1, Resolved("db", more, "")), (2, Resolved("db", more, ""))]
    names.due(45.0)
    assert names.answered("db", Answer(more[::-1]), 45.0, [1, 2]) == ([], frozenset())
    assert names.ask("db", 2, 60.0) is None
    sends, _ = names.answered("db", Answer(more), 60.0, [1, 2])
    assert sends == [(2, Resolved("db", more, ""))]


def test_everybody_hears_where_a_name_leads_that_did_not_exist_for_a_while() -> None:
    """It need not lead to where its servers are."""
    names = known()
    names.due(15.0)
    names.answered("db", Answer(error="unknown"), 15.0, [1, 2])
    assert names.ask("db", 1, 20.0) is None
    sends, _ = names.answered("db", Answer(NEW), 20.0, [1, 2])
    assert sends == [(1, Resolved("db", NEW, "")), (2, Resolved("db", NEW, ""))]


def test_a_failure_is_believed_for_dns_nxdomain_ttl() -> None:
    """A name that does not exist is not asked for again and again, and is no reason to move anything."""
    names = known()
    names.due(15.0)
    assert names.answered("db", Answer(error="unknown"), 15.0, [1]) == ([], frozenset())
    assert names.ask("db", 1, 19.0) == [(1, Resolved("db", (), "unknown"))]
    assert names.ask("db", 1, 20.0) is None


def test_trouble_of_the_moment_changes_nothing() -> None:
    """While the name server is away the addresses that were good are used."""
    names = known()
    names.due(15.0)
    names.answered("db", Answer(error="try again", passing=True), 15.0, [1])
    assert names.ask("db", 1, 16.0) == [(1, Resolved("db", OLD, ""))]
    assert names.next_deadline() == 20.0


def test_a_name_that_leads_nowhere_is_looked_up_again_at_once() -> None:
    """After its addresses could not be reached the next look-up does not wait for its time."""
    names = known()
    names.doubt("db")
    assert names.due(1.0) == ["db"]
    names.doubt("nobody")


def test_zero_looks_up_for_each_connection() -> None:
    """dns_max_ttl = 0: no answer is used twice, and nothing is looked up unasked."""
    names = Names(0.0, 5.0)
    assert names.ask("db", 1, 0.0) is None
    names.answered("db", Answer(OLD), 0.0, [1])
    assert names.due(100.0) == []
    assert names.ask("db", 1, 0.0) is None


def test_names_that_are_gone_from_the_configuration_are_forgotten() -> None:
    """A reload takes them out; an answer that comes late for one is nobody's."""
    names = known()
    names.due(15.0)
    names.configure(["other"], 15.0, 5.0)
    assert names.statistics(15.0) == ()
    assert names.answered("db", Answer(NEW), 16.0, [1]) == ([], frozenset())


def test_names_have_rows() -> None:
    """A row tells the addresses and how long they are believed."""
    (row,) = known().statistics(5.0)
    assert (row.name, row.addresses, row.ttl) == ("db", OLD, 10.0)
