"""``poolproxy console``."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from poolproxy.cli.console_client import Answer, ConsoleError, connected
from poolproxy.cli.where import Target, where_options

EPILOG = """\b
Examples:
  poolproxy console 'SHOW POOLS'
  poolproxy console --config /etc/poolproxy.toml --json 'SHOW STATS'
  poolproxy console --host 10.1.2.3 --user boss 'PAUSE shop'
  poolproxy console --url 'postgresql://boss@pooler/?sslmode=verify-full' 'SHOW CLIENTS'
"""


@click.command(epilog=EPILOG)
@where_options
@click.option("--json", "as_json", is_flag=True, help="Print the rows as a JSON array of objects.")
@click.argument("command", nargs=-1, required=True)
def console(
    where: Target,
    command: tuple[str, ...],
    as_json: bool,
) -> None:
    """Give a COMMAND on the admin console of a running pooler and print the answer.

    SHOW HELP lists the commands. At the Unix socket, who runs the pooler needs no password; else it is
    taken from PGPASSWORD or ~/.pgpass. The exit status is 1 if the command fails.
    """
    with connected(where) as connection:
        try:
            answer = connection.ask(" ".join(command))
        except ConsoleError as error:
            click.echo(f"poolproxy: {error}", err=True)
            raise click.exceptions.Exit(1) from None
    for notice in answer.notices:
        click.echo(notice, err=True)
    click.echo(as_objects(answer) if as_json else as_table(answer))


def as_objects(answer: Answer) -> str:
    """The rows as JSON; every value is a text or null."""
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def as_table(answer: Answer) -> str:
    """The rows as a table with aligned columns; the tag where there are none."""
    if not answer.columns:
        return answer.tag
    return "\n".join(aligned([answer.columns, *answer.rows]))


def aligned(rows: Sequence[Sequence[str | None]]) -> list[str]:
    """Lines with the columns of ``rows`` aligned, numbers to the right; NULL is empty. The first row is the
    head.
    """
    texts = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(*texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [len(column) > 1 and all(_is_number(cell) for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]


def printable(cell: str | None) -> str:
    """A value for a terminal: names are clients' choice, and must not move its cursor."""
    return "".join(c if c.isprintable() else "?" for c in cell or "")


def _is_number(cell: str) -> bool:
    return cell == "" or cell.lstrip("-").isdigit()
