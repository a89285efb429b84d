"""Carries out the console's orders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from poolproxy.admin.command import Call, console_error

if TYPE_CHECKING:
    from poolproxy.acceptor.console import Desk


@attrs.frozen
class Outcome:
    """How a command has ended, as ConsoleEnd tells it."""

    tag: str
    notice: str = ""
    close: bool = False


ENDED = Outcome("", close=True)

MODES = {"WAIT_FOR_CLIENTS": "clients", "WAIT_FOR_SERVERS": "servers"}


async def execute(desk: Desk, call: Call) -> Outcome:
    """Do what the order says; raises PoolerError for the client."""
    verb = call.command.verb  # type: ignore[union-attr]
    match verb:
        case "RELOAD":
            if await desk.hub.reload():
                raise console_error("RELOAD failed, see logs for additional details", "F0000")
        case "SHUTDOWN":
            if not call.argument:
                desk.hub.leave("now")
                return ENDED
            desk.hub.leave(MODES[call.argument.upper()])
        case _:
            raise console_error(f"{verb} is not implemented", "0A000")
    return Outcome(call.tag)
