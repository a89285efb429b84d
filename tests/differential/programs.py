"""Hypothesis strategies: what clients do, within what docs/features.md promises for the mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.differential import statements as texts
from tests.differential.script import (
    COPY,
    ENDS,
    FLUSH,
    FLUSHED,
    NOTHING,
    SYNC,
    Batch,
    Example,
    Kill,
    Life,
    Message,
    query,
    run,
)
from tests.differential.table import Promise, promise, promised

Scene: TypeAlias = tuple[Batch, ...]
Messages: TypeAlias = tuple[Message, ...]

CLIENTS = 12
FILL = "copy tagged from stdin"
JOIN, DIVIDE, NO_FUNCTION = 1258, 154, 999_999  # oids: textcat, int4div, and none


# -- scenes: each leaves neither a pipeline nor a COPY open --------------------------------------------


def simple(sqls: Sequence[str]) -> SearchStrategy[Scene]:
    """A simple query of one statement or several."""
    several = st.lists(st.sampled_from(sqls), min_size=1, max_size=3)
    return several.map(lambda chosen: (query(";".join(chosen)),))


def pipeline(sqls: Sequence[str]) -> SearchStrategy[Scene]:
    """Unnamed statements in segments with a Sync each."""
    segment = st.lists(st.sampled_from(sqls).map(run), min_size=1, max_size=3).map(_flat)
    segments = st.lists(segment, min_size=1, max_size=3)
    return segments.map(lambda found: (Batch(_flat([(*one, SYNC) for one in found])),))


def flushed(sqls: Sequence[str]) -> SearchStrategy[Scene]:
    """A segment that is sent step by step, each with a Flush and a wait for its answers."""

    def scene(chosen: list[str]) -> Scene:
        steps = [Batch((*run(sql), FLUSH), FLUSHED) for sql in chosen]
        return (*steps, Batch((SYNC,)))

    return st.lists(st.sampled_from(sqls), min_size=1, max_size=2).map(scene)


def named(*more: Message) -> SearchStrategy[Scene]:
    """Named statements, their names taken, unknown, used and closed at random; ``more`` between them."""
    name = st.sampled_from(texts.NAMES)
    with_value = st.tuples(st.just("Parse"), name, st.sampled_from(texts.SHARED))
    without = st.tuples(st.just("Parse"), name, st.sampled_from(texts.WITHOUT_VALUE[3:]))
    step = st.one_of(
        with_value.map(lambda parse: (parse,)),
        without.map(lambda parse: (parse,)),
        name.map(lambda n: (("Bind", "", n, "{me}"), ("Execute", "", 0))),
        name.map(lambda n: (("Bind", "", n, "{me}"), ("Describe", "P", ""), ("Execute", "", 0))),
        name.map(lambda n: (("Bind", "", n), ("Execute", "", 0))),
        name.map(lambda n: (("Describe", "S", n),)),
        name.map(lambda n: (("Close", "S", n),)),
    )
    segment = st.lists(step, min_size=1, max_size=4).map(lambda steps: (*_flat(steps), SYNC))
    if more:
        segment = st.one_of(segment, st.sampled_from(more).map(lambda one: (one,)))
    return st.lists(segment, min_size=1, max_size=3).map(lambda found: (Batch(_flat(found)),))


def known_name(*more: Message) -> SearchStrategy[Scene]:
    """A named statement that is there, used again and again."""
    used = st.tuples(st.sampled_from(texts.NAMES), st.sampled_from(texts.SHARED))

    def scene(chosen: tuple[str, str]) -> Scene:
        name, sql = chosen
        use: Messages = (("Bind", "", name, "{me}"), ("Execute", "", 0), SYNC)
        parse: Messages = (("Close", "S", name), ("Parse", name, sql), ("Describe", "S", name))
        return Batch((*parse, SYNC)), Batch(use), Batch((*use, *use))

    return used.map(scene)


def blocks(_: Sequence[str]) -> SearchStrategy[Scene]:
    """BEGIN, COMMIT and ROLLBACK by any means and in any order, between named statements."""
    means: list[Message] = [
        ("Query", sql) for sql in (*texts.WITHOUT_VALUE, "select '{me}', 1 / 0")
    ]
    by_name = st.sampled_from(texts.WITHOUT_VALUE).map(lambda sql: Batch((*run(sql), SYNC)))
    steps = st.one_of(by_name.map(lambda batch: (batch,)), named(*means), known_name())
    scenes = st.lists(steps, min_size=1, max_size=3).map(_flat)
    return scenes.map(lambda scene: (*scene, query("rollback")))


def reshaped(_: Sequence[str]) -> SearchStrategy[Scene]:
    """A named statement whose tables and functions change between its uses."""

    def scene(drawn: tuple[str, str, bool, list[Batch | str]]) -> Scene:
        name, sql, told, steps = drawn
        describe: Messages = (("Describe", "S", name),) if told else ()
        parse: Messages = (("Close", "S", name), ("Parse", name, sql), *describe, SYNC)
        bind: Message = ("Bind", "", name)
        use = {
            "use": Batch((bind, ("Execute", "", 0), SYNC)),
            "show": Batch((bind, ("Describe", "P", ""), ("Execute", "", 0), SYNC)),
            "parse": Batch(parse),
            "both": Batch((*parse[:-1], bind, ("Execute", "", 0), SYNC)),
        }
        found = [step if isinstance(step, Batch) else use[step] for step in steps]
        return (query(texts.OWN_TABLE), use["parse"], use["show"], *found)

    alone = [sql for sql in texts.DDL if ";" not in sql]
    by_name = st.sampled_from(alone).map(lambda sql: Batch((*run(sql), SYNC)))
    change = st.one_of(by_name, st.sampled_from(texts.DDL).map(query))
    step = st.one_of(change, st.sampled_from(("use", "show", "parse", "both")))
    steps = st.lists(step, min_size=2, max_size=6)
    sql = st.sampled_from(texts.RESHAPED)
    return st.tuples(st.sampled_from(texts.NAMES), sql, st.booleans(), steps).map(scene)


def portals(_: Sequence[str]) -> SearchStrategy[Scene]:
    """A portal that is read in portions, in one segment or, in a transaction, over several."""
    sizes = st.lists(st.sampled_from((1, 2, 0)), min_size=1, max_size=4)

    def scene(drawn: tuple[list[int], bool, str]) -> Scene:
        rows, apart, sql = drawn
        start: Messages = (("Parse", "", sql), ("Bind", "p", ""), ("Describe", "P", "p"))
        portions: list[Message] = [("Execute", "p", count) for count in rows]
        end: Messages = (("Close", "P", "p"), SYNC)
        if apart:
            return (Batch((*start, SYNC)), *(Batch((one, SYNC)) for one in portions), Batch(end))
        return (Batch((*start, *portions, *end)),)

    sql = st.sampled_from([sql for sql in texts.STATEMENTS[texts.BASE] if "generate_series" in sql])
    return st.tuples(sizes, st.booleans(), sql).map(scene)


def fill(_: Sequence[str]) -> SearchStrategy[Scene]:
    """COPY FROM STDIN: in both protocols, patient or blind, ended, failed by either side, data late."""
    row = "{me}\t%d\t{me} copied\n"
    good = st.lists(st.integers(1, 9).map(lambda n: row % n), max_size=4)
    bad = st.sampled_from(("", "{me}\tx\t{me}\n", "{me}\n"))
    end = st.sampled_from((("CopyDone",), ("CopyFail", "enough of {me}")))
    way = st.sampled_from((_fill_simple, _fill_several, _fill_extended, _fill_as_libpq))

    def scene(drawn: tuple[list[str], str, Message, Callable[..., Scene], bool]) -> Scene:
        rows, wrong, last, fill_by, patient = drawn
        data: Messages = tuple(("CopyData", one) for one in [*rows, wrong, *rows[:1]] if one)
        return fill_by((*data, last), patient)

    return st.tuples(good, bad, end, way, st.booleans()).map(scene)


def _fill_simple(data: Messages, patient: bool, sql: str = FILL) -> Scene:
    if patient:
        return query(sql, COPY), Batch(data)
    return (Batch((("Query", sql), *data)),)


def _fill_several(data: Messages, patient: bool) -> Scene:
    return _fill_simple(data, patient, f"select '{{me}}'; {FILL}; select '{{me}} again'")


def _fill_extended(data: Messages, patient: bool) -> Scene:
    if patient:
        return Batch((*run(FILL), FLUSH), COPY), Batch((*data, SYNC))
    return (Batch((*run(FILL), FLUSH, *data, SYNC)),)


def _fill_as_libpq(data: Messages, patient: bool) -> Scene:
    """libpq sends a Sync right behind Execute, which is read inside the COPY."""
    if patient:
        return Batch((*run(FILL), SYNC), COPY), Batch((*data, SYNC))
    return (Batch((*run(FILL), SYNC, *data, SYNC)),)


def late_data(_: Sequence[str]) -> SearchStrategy[Scene]:
    """A COPY has failed, the client knows it, and goes on sending data; then it ends it, or not."""
    extended = st.booleans()
    ends = st.sampled_from(((), (("CopyDone",),), (("CopyFail", "late {me}"),)))

    def scene(drawn: tuple[bool, Messages]) -> Scene:
        is_extended, end = drawn
        wrong: Message = ("CopyData", "{me}\tx\t{me}\n")
        late: Messages = (("CopyData", "{me}\t1\tlate\n"), ("CopyData", "{me}\t2\tlate\n"), *end)
        if is_extended:
            return Batch((*run(FILL), FLUSH, wrong), FLUSHED), Batch((*late, SYNC))
        return Batch((("Query", FILL), wrong)), Batch((*late, ("Query", "select 'after {me}'")))

    return st.tuples(extended, ends).map(scene)


def calls(_: Sequence[str]) -> SearchStrategy[Scene]:
    """FunctionCall."""
    call = st.sampled_from(
        [("Call", JOIN, "called by ", "{me}"), ("Call", DIVIDE, "1", "0"), ("Call", NO_FUNCTION)]
    )
    return call.map(lambda one: (Batch((one,)),))


def large(_: Sequence[str]) -> SearchStrategy[Scene]:
    """A Bind that is larger than what is kept of a client without a server."""
    name = st.sampled_from(("", "a"))

    def scene(drawn: tuple[str, int]) -> Scene:
        name, size = drawn
        sql = "select length($1), '{me}'"
        bind: Messages = (("BindLarge", name, "x", size), ("Execute", "", 0))
        return (Batch((("Close", "S", name), ("Parse", name, sql), *bind, SYNC)),)

    return st.tuples(name, st.sampled_from((10_000, 200_000))).map(scene)


@cache
def deallocate(mode: str, *, in_transaction: bool) -> SearchStrategy[Scene]:
    """Named statements go by SQL, in either protocol."""
    sqls = texts.deallocations(mode, in_transaction=in_transaction)
    batches = [batch for sql in sqls for batch in (query(sql), Batch((*run(sql), SYNC)))]
    return st.sampled_from(batches).map(lambda batch: (batch,))


@cache
def two_phases(mode: str) -> SearchStrategy[Scene]:
    """PREPARE TRANSACTION, and COMMIT PREPARED or its like, maybe on another server connection."""
    begin = [query("begin; insert into tagged values ('{me}', 6, 'in two phases')")]
    prepare = [
        query("prepare transaction '{me}'"),
        Batch((*run("prepare transaction '{me}'"), SYNC)),
    ]
    ends = [query("commit prepared '{me}'"), query("rollback prepared '{me}'")]
    parts = st.tuples(*map(st.sampled_from, (begin, prepare, ends, ends)))
    if promise(texts.TWO_PHASES, mode) is not Promise.ANYWHERE:
        return st.nothing()
    return parts.map(
        lambda found: (*found, query("delete from tagged where life = '{me}' and n = 6"))
    )


# -- clients -------------------------------------------------------------------------------------------

# By the row that promises it, how it is made, and how often.
SCENES: tuple[tuple[str, Callable[[Sequence[str]], SearchStrategy[Scene]], int], ...] = (
    (texts.BASE, simple, 3),
    (texts.BASE, pipeline, 3),
    (texts.BASE, flushed, 1),
    (texts.BASE, large, 1),
    (texts.NAMED, lambda _: named(), 3),
    (texts.NAMED, lambda _: known_name(), 2),
    (texts.NAMED, reshaped, 2),
    (texts.COPY, fill, 3),
    (texts.COPY, late_data, 1),
    (texts.CURSORS, portals, 1),
    (texts.CALLS, calls, 1),
)


@cache
def scenes(mode: str, *, in_transaction: bool) -> SearchStrategy[Scene]:
    """All that the table promises there, but BEGIN."""
    sqls = texts.allowed(mode, in_transaction=in_transaction)
    places = (Promise.ANYWHERE, Promise.IN_TRANSACTION)[: 1 + in_transaction]
    found = [deallocate(mode, in_transaction=in_transaction)]
    for row, make, weight in SCENES:
        if promise(row, mode) in places:
            found += [make(sqls)] * weight
    return st.one_of(found)


@cache
def transactions(mode: str) -> SearchStrategy[Scene]:
    """BEGIN, what may be done then, COMMIT or ROLLBACK."""

    def begin_or_end(*sqls: str) -> SearchStrategy[Batch]:
        batches = [batch for sql in sqls for batch in (query(sql), Batch((*run(sql), SYNC)))]
        return st.sampled_from(batches)

    inner = st.lists(scenes(mode, in_transaction=True), min_size=1, max_size=3).map(_flat)
    ends = begin_or_end("commit", "rollback")
    block = st.tuples(begin_or_end("begin"), inner, ends)
    return block.map(lambda found: (found[0], *found[1], found[2]))


@cache
def unfinished(mode: str) -> SearchStrategy[Scene]:
    """How a client can begin something and leave; nothing of it may be committed."""
    insert = "insert into tagged values ('{me}', 8, 'never')"
    row: Message = ("CopyData", "{me}\t8\tnever\n")
    found: list[Scene] = [
        (query("select pg_sleep(0.03), '{me}'", NOTHING),),
        (query("select '{me}', repeat('x', 1000) from generate_series(1, 3000)", NOTHING),),
        (query("copy (select '{me}', n from generate_series(1, 99999) n) to stdout", NOTHING),),
        (query(FILL, COPY), Batch((row, row), NOTHING)),
        (Batch((("Query", FILL), row, row), NOTHING),),
        (Batch((*run(FILL), SYNC, row), NOTHING),),
        (Batch(run(insert), NOTHING),),
        (Batch((*run(insert), FLUSH), FLUSHED), Batch((row,), NOTHING)),
        (Batch((("Parse", "d", "select $1"), ("Bind", "", "d", "{me}")), NOTHING),),
    ]
    if promised(texts.TRANSACTIONS, mode):
        found += [
            (query("begin"), query(insert), query("select '{me}'", NOTHING)),
            (query("begin"), query(insert), Batch(run("select pg_sleep(0.03)"), NOTHING)),
            (query("begin"), query(f"{insert}; {insert}"), query("commit", NOTHING)),
            (query(f"begin; {insert}", NOTHING),),
        ]
    return st.sampled_from(found)


PARAMETERS: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    texts.BASE: ((), (), ()),
    texts.TRACKED: (
        (("application_name", "app {me}"),),
        (("DateStyle", "German, DMY"), ("TimeZone", "Asia/Tokyo")),
        (("client_encoding", "LATIN1"),),
    ),
    texts.AT_START: (
        (("work_mem", "7MB"),),
        (("options", "-c geqo=off -c work_mem=9MB"), ("application_name", "app {me}")),
    ),
}


@cache
@st.composite
def lives(draw: st.DrawFn, mode: str) -> Life:
    """A connection from its start to its end, which may come in the middle of something."""
    scene = scenes(mode, in_transaction=False)
    block = st.one_of(transactions(mode), blocks(()), two_phases(mode))
    many = promised(texts.TRANSACTIONS, mode)
    batches = _flat(draw(st.lists(st.one_of(scene, block) if many else scene, max_size=4)))
    if not many and draw(st.integers(0, 9)) == 9:
        batches += draw(block)  # the client's last words
    end, sent = "terminate", 100
    if draw(st.integers(0, 3)) == 3:
        batches += draw(unfinished(mode))
        end = draw(st.sampled_from(ENDS))
        sent = 100 if end == "terminate" else draw(st.sampled_from((100, 99, 50, 10)))
    cut = draw(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 99)), max_size=3))
    for index, percent in cut:
        if index < len(batches):
            old = batches[index]
            new = Batch(old.messages, old.wait, tuple(sorted({*old.cuts, percent})))
            batches = (*batches[:index], new, *batches[index + 1 :])
    blind = not any(map(_must_have_read, batches)) and draw(st.booleans())
    parameters = [p for row, found in PARAMETERS.items() if promised(row, mode) for p in found]
    tls = draw(st.sampled_from((False, False, True)))
    return Life(batches, draw(st.sampled_from(parameters)), blind, end, sent, tls)


def _must_have_read(batch: Batch) -> bool:
    """Whether it ends a COPY by Sync alone: right only for a client that knows that it has failed."""
    names = [name for name, *_ in batch.messages]
    return (
        names[:1] == ["CopyData"]
        and names[-1] == "Sync"
        and not {"CopyDone", "CopyFail"} & {*names}
    )


def examples(mode: str, *kills: str) -> SearchStrategy[Example]:
    """Many clients of a pool in this mode, while some of ``kills`` die: see Kill."""
    client = st.lists(lives(mode), min_size=1, max_size=2).map(tuple)
    victim = st.integers(0, 99)
    what = st.sampled_from(kills or ("",))
    kill = st.builds(Kill, st.integers(0, 150), what, victim)
    return st.builds(
        Example,
        st.just(mode),
        st.tuples(*[client] * CLIENTS),
        st.integers(0, 999),
        st.lists(kill, min_size=3, max_size=12).map(tuple) if kills else st.just(()),
    )


def _flat(parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(item for part in parts for item in part)
