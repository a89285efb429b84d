"""auth_type = any: everybody is let in, whatever name he gives."""

from __future__ import annotations

from poolproxy.auth.exchange import Accept, ClientExchange, Step, method


@method("any")
class Any(ClientExchange):
    """Accept. The caller sees to it that the client's name decides nothing: forced users only."""

    def _first(self) -> Step:
        return Accept()
