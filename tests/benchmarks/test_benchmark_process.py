"""Reading /proc."""

from __future__ import annotations

import os

import pytest

from benchmarks.process import cpu_seconds, descendants, parse_pss, parse_stat, pss, tree

TICK = 1 / os.sysconf("SC_CLK_TCK")


def stat_line(command: str) -> str:
    """A line of /proc/PID/stat: fields 14 to 17 are the four times."""
    return f"4711 ({command}) S 17 4711 4711 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1000 50\n"


@pytest.mark.parametrize("command", ["python", "a b", "x) S 1 (y", ")"])
def test_stat_is_read_whatever_the_command_is_called(command: str) -> None:
    """Blanks and parentheses in the command do not shift the fields."""
    stat = parse_stat(stat_line(command))
    assert stat.parent == 17
    assert stat.cpu_seconds == pytest.approx(127 * TICK)


def test_pss_is_in_bytes() -> None:
    """The kernel's kB are 1024 bytes, and Pss_Anon and others are not taken for Pss."""
    text = "5000-6000 ---p 0 0:0 0 [rollup]\nRss: 900 kB\nPss: 12 kB\nPss_Anon: 5 kB\n"
    assert parse_pss(text) == 12 * 1024


def test_pss_missing_is_an_error() -> None:
    """A kernel thread's empty answer is not taken for zero bytes."""
    with pytest.raises(ValueError, match="no Pss line"):
        parse_pss("Rss: 900 kB\n")


def test_descendants_are_found_at_any_depth() -> None:
    """Children of children belong to the tree, the parent's other children do not."""
    assert descendants(2, {2: 1, 3: 2, 4: 3, 5: 1, 6: 2}) == [2, 3, 6, 4]


def test_this_process_can_be_measured() -> None:
    """The parsers fit the kernel that the tests run on."""
    me = tree(os.getpid())
    assert me[0] == os.getpid()
    assert pss(me[:1]) > 1_000_000
    assert cpu_seconds(me[:1]) > 0


def test_a_process_that_has_ended_counts_nothing() -> None:
    """A worker that ends during a run does not end the benchmark."""
    beyond_any_pid = 1 << 30
    assert cpu_seconds([beyond_any_pid]) == 0
    assert pss([beyond_any_pid]) == 0
