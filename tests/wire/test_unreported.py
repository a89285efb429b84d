"""Start-up parameters that PostgreSQL does not report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.errors import PoolerError
from poolproxy.wire.unreported import MOST, MOST_BYTES, changes, pack, unpack

NAMES = st.sampled_from(["geqo", "jit", "role", "work_mem"])
PARAMETERS = st.dictionaries(NAMES, st.sampled_from(["", "on", "off"]))


def test_order_and_case_do_not_matter() -> None:
    """So clients that ask for the same have equal values."""
    assert pack({"b": "1", "A": "2"}) == pack({"a": "2", "B": "1"})
    assert pack({}) is None


def test_there_is_a_limit_to_what_is_kept() -> None:
    """In number and in bytes."""
    pack({f"a{number}": "" for number in range(MOST)})
    pack({"a": "é" * (MOST_BYTES // 2 - 1)})
    for many in ({f"a{number}": "" for number in range(MOST + 1)}, {"a": "é" * (MOST_BYTES // 2)}):
        with pytest.raises(PoolerError, match="too many startup parameters"):
            pack(many)


@given(PARAMETERS)
def test_what_is_packed_comes_out_again(parameters: dict[str, str]) -> None:
    """Empty values too."""
    assert unpack(pack(parameters)) == parameters


@given(PARAMETERS, PARAMETERS)
def test_the_changes_lead_from_one_to_the_other(
    server: dict[str, str], client: dict[str, str]
) -> None:
    """Nothing is changed while a role is there, and nothing at all without need."""
    found = list(changes(pack(server), pack(client)))
    now = dict(server)
    for name, value in found:
        assert name == "role" or "role" not in now
        if value is None:
            del now[name]
        else:
            now[name] = value
    assert now == client
    assert server != client or not found
