"""The expensive step of SCRAM, off the event loop."""

from __future__ import annotations

import trio

from poolproxy.auth.scram import KeyRequest

REMEMBERED_KEYS = 1024  # a user has one for each side; more users than this derive again
# A flood of log-ins must not take more than a few threads: what they do is done on the workers' cores.
AT_ONCE = 4

_derived: dict[KeyRequest, bytes] = {}
_limit = trio.CapacityLimiter(AT_ONCE)


async def derive(request: KeyRequest) -> bytes:
    """Run it in a thread; remembered, as every log-in of a user repeats it."""
    known = _derived.get(request)
    if known is None:
        known = await trio.to_thread.run_sync(request.derive, limiter=_limit)
        if len(_derived) >= REMEMBERED_KEYS:
            _derived.clear()
        _derived[request] = known
    return known
