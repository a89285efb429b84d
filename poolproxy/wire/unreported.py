"""Start-up parameters that PostgreSQL does not report, such as geqo or (before 18) search_path.

Nobody hears what a server has of them, so it is remembered what the pooler has set there: a server has
its own defaults but for these. They are kept as one string, so that comparing them costs what comparing
any other value costs: ``name\\0value\\0name\\0value`` in the order of the names, None for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from poolproxy.errors import PoolerError

MOST = 50  # names of one client
MOST_BYTES = 4096  # of their names and values: each distinct set of them is kept with its clients
ROLE = "role"  # it decides what may be set, so it comes last, and goes first


def pack(parameters: Mapping[str, str]) -> str | None:
    """Names compare without case, as in PostgreSQL. Raises PoolerError if it is too much to keep."""
    items = sorted({name.lower(): value for name, value in parameters.items()}.items())
    packed = "\0".join(part for item in items for part in item)
    if len(items) > MOST or len(packed.encode()) > MOST_BYTES:
        raise PoolerError(
            "too many startup parameters",
            hint=f"Besides the tracked ones a client can have {MOST}, of {MOST_BYTES} bytes in all.",
            reason="startup_parameter",
        )
    return packed or None


def unpack(packed: str | None) -> dict[str, str]:
    """What :func:`pack` has packed, by lower-case name."""
    parts = packed.split("\0") if packed else []
    return dict(zip(parts[::2], parts[1::2], strict=True))


def lasting(packed: str | None) -> str | None:
    """Those that a server can be opened with for good: DISCARD ALL takes its role away, whatever it was."""
    parameters = unpack(packed)
    if ROLE not in parameters:
        return packed
    del parameters[ROLE]
    return pack(parameters)


def changes(server: str | None, client: str | None) -> Iterable[tuple[str, str | None]]:
    """What to set, in this order, so that a server with ``server`` has ``client``; None: its default."""
    if server == client:
        return []
    ours, theirs = unpack(server), unpack(client)
    found: list[tuple[str, str | None]] = [(n, None) for n in ours if n not in theirs]
    found += [(name, value) for name, value in theirs.items() if ours.get(name) != value]
    result = [item for item in found if item[0] != ROLE]
    if ROLE in ours:
        result.insert(0, (ROLE, None))
    if ROLE in theirs:
        result.append((ROLE, theirs[ROLE]))
    return result
