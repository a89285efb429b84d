"""Examples by hand: those of each mode need all of its masks."""

from __future__ import annotations

from tests.differential import statements
from tests.differential.arena import KEPT
from tests.differential.script import SYNC, Batch, Example, Kill, Life, Message, query
from tests.differential.table import MODES

DISCARDS = Life(
    (query("set application_name = 'other'"), query("discard all")),
    parameters=(("application_name", "app {me}"),),
)
DISCARDS_AND_SHOWS = Life(
    (Batch((("Query", "discard all"), ("Query", "show work_mem"))), query("show work_mem")),
    parameters=(("work_mem", "7MB"),),
)
HEARS_ITSELF = Life((query("listen channel_{n}"), query("notify channel_{n}, 'sent by {me}'")))
BEGINS = Life((query("select '{me}'"), query("begin"), query("select '{me}'")))
BINDS_TOO_LITTLE = Life(
    (
        Batch((("Parse", "a", "select $1::text"), ("Bind", "", "a"), ("Execute", "", 0), SYNC)),
        Batch((("Bind", "", "a", "{me}"), ("Execute", "", 0), SYNC)),
    )
)


MORE: tuple[Message, ...] = tuple(("Parse", f"more {n}", f"select {n}") for n in range(KEPT))
MORE_THAN_IS_KEPT = tuple(Batch((parse, SYNC)) for parse in MORE)
DESCRIBES: Batch = Batch((("Describe", "S", "a"), SYNC))
DESCRIBES_AFTER_FAILURE = Life(
    (
        Batch((("Parse", "a", "update tagged set n = n where life = $1"), SYNC)),
        *MORE_THAN_IS_KEPT,
        query("begin; select '{me}', 1 / 0"),
        DESCRIBES,
    )
)
PREPARES_OWN: Batch = Batch((("Close", "S", "a"), ("Parse", "a", statements.RESHAPED[0]), SYNC))
USES: Batch = Batch((("Bind", "", "a"), ("Describe", "P", ""), ("Execute", "", 0), SYNC))
ADD, DROP = query(statements.DDL[0]), query("drop table {own}")
TABLE, BEGIN, COMMIT = query(statements.OWN_TABLE), query("begin"), query("commit")
USES_AFTER_DDL = Life((TABLE, PREPARES_OWN, USES, ADD, USES))
PREPARES_AFTER_DDL = Life((TABLE, BEGIN, PREPARES_OWN, USES, ADD, PREPARES_OWN, USES, COMMIT))
DESCRIBES_AFTER_DROP = Life((TABLE, BEGIN, PREPARES_OWN, *MORE_THAN_IS_KEPT, DROP, DESCRIBES))
PREPARES_AFTER_DROP = Life((TABLE, BEGIN, PREPARES_OWN, USES, DROP, PREPARES_OWN, COMMIT))

KNOWN = {
    "session": Example("session", ((HEARS_ITSELF,),)),
    "transaction": Example(
        "transaction",
        (
            (DISCARDS, DISCARDS_AND_SHOWS),
            (BINDS_TOO_LITTLE,),
            (DESCRIBES_AFTER_FAILURE, DESCRIBES_AFTER_DROP),
            (USES_AFTER_DDL,),
            (PREPARES_AFTER_DDL, PREPARES_AFTER_DROP),
        ),
    ),
    "statement": Example(
        "statement",
        ((DISCARDS, DISCARDS_AND_SHOWS), (BINDS_TOO_LITTLE,), (BEGINS,), (USES_AFTER_DDL,)),
    ),
}

SLEEPS = Life((query("select '{me}', pg_sleep(0.3)"),))
BUSY = Life((query("select '{me}'"),) * 60)
CANCELS = tuple(Kill(turn, "query", 0) for turn in (10, 20, 30, 40))
# While two sleep one is cancelled, and then all servers are terminated.
DYING = {
    mode: Example(
        mode,
        ((SLEEPS,), (SLEEPS,), (BUSY,)),
        kills=(*CANCELS, *(Kill(45 + number, "server", number) for number in range(6))),
    )
    for mode in MODES
}

ORPHANS = {
    mode: Example(mode, ((BUSY,),) * 6, kills=(Kill(40, "worker", 0), Kill(120, "worker", 1)))
    for mode in MODES
}
