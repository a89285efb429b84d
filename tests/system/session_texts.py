"""Statements about session state that leave nothing."""

from __future__ import annotations

from tests.system.protocol_client import RawClient

HARMLESS = (
    ["begin", "set local statement_timeout = 5000", "commit"],
    ["begin", "set transaction isolation level serializable", "commit"],
    ["begin", "set statement_timeout = 5000", "rollback"],
    ["begin", "savepoint a", "listen x", "rollback to a", "commit"],
    ["begin", "create temp table pp_u (n int) on commit drop", "commit"],
    ["begin", "create temp table pp_u on commit drop as select 1", "commit"],
    ["begin", "declare c cursor for select 1", "commit"],
    ["begin", "prepare p as select 1", "deallocate p", "commit"],
    ["begin; set statement_timeout = 5000; reset statement_timeout; commit"],
    ["set time zone 'Asia/Tokyo'", "set application_name = 'somebody'"],
    ["select 1; select 2", "select where false"],
)


def do(one: RawClient, texts: list[str], *, extended: bool = False) -> None:
    for text in texts:
        if extended:
            one.pipeline(text)
            one.replies()
        else:
            one.query(text)
