"""Every error that poolproxy itself makes.

One tree, two kinds. A :class:`PoolerError` is meant for a PostgreSQL client: it has a
severity, a SQLSTATE, a text that a client may see, and a hint that names the setting and the
cure. A :class:`ConfigError` is meant for the operator and carries all mistakes at once.

The texts (field M) are PgBouncer's, because scripts match on them. PgBouncer answers 08P01 to
nearly everything; a finer SQLSTATE is used only where common client libraries map it to the
same exception class as 08P01 (``OperationalError``).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

PROTOCOL_VIOLATION = "08P01"


@attrs.frozen
class PoolerError(Exception):
    """An ErrorResponse that the pooler sends (https://www.postgresql.org/docs/current/protocol-error-fields.html).

    ``reason`` is the label under which metrics count it: from a fixed set, never from a peer.
    """

    message: str
    sqlstate: str = PROTOCOL_VIOLATION
    hint: str = ""
    severity: str = "FATAL"
    reason: str = "protocol"

    def __str__(self) -> str:
        return self.message


@attrs.frozen
class Mistake:
    """One mistake in the operator's input and the place to mend it.

    ``where`` is ``file:line`` or ``file: key.path``, whatever is known.
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class ConfigError(Exception):
    """The configuration can't be used; ``mistakes`` has every reason, in file order.

    ``read_as`` says in what format its file was read, "" if that was not the point.
    """

    def __init__(self, mistakes: Sequence[Mistake], read_as: str = "") -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)
        self.read_as = read_as
