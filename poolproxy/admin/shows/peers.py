"""SHOW PEERS and SHOW PEER_POOLS."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import View


@attrs.frozen
class Peer:
    """One instance of the group."""

    peer_id: int = column(Type.INT, "Its number.")
    host: str = column(Type.TEXT, "Where it is.")
    port: int = column(Type.INT, "Its port.")
    pool_size: int = column(
        Type.INT, "Cancel requests that may be on their way to it at one time; 0: any number."
    )


@attrs.frozen
class PeerPool:
    """The cancel requests to one instance of the group."""

    peer_id: int = column(Type.INT, "Its number.")
    cl_active_cancel_req: int = column(Type.INT, "Cancel requests on their way to it.")
    cl_waiting_cancel_req: int = column(Type.INT, "Those that wait, because of pool_size.")
    sv_active_cancel: int = column(Type.INT, "Connections to it: one for each on its way.")
    sv_login: int = column(Type.INT, "Always 0: they are counted as active at once.", default=0)


def _peers(view: View) -> Iterator[Row]:
    for name, peer in sorted(view.config.peers.items(), key=lambda item: int(item[0])):
        size = peer.pool_size
        size = view.config.settings.default_pool_size if size is None else size
        yield values_of(
            Peer(peer_id=int(name), host=peer.host or "", port=peer.port, pool_size=size)
        )


def _pools(view: View) -> Iterator[Row]:
    counts = {facts.peer: facts for facts in view.peers}
    for peer in sorted(map(int, view.config.peers)):
        facts = counts.get(peer)
        active, waiting = (facts.active, facts.waiting) if facts else (0, 0)
        yield values_of(
            PeerPool(
                peer_id=peer,
                cl_active_cancel_req=active,
                cl_waiting_cancel_req=waiting,
                sv_active_cancel=active,
            )
        )


PEERS = Show("PEERS", columns_of(Peer), "The instances of the group.", _peers)
PEER_POOLS = Show(
    "PEER_POOLS", columns_of(PeerPool), "Cancel requests under way to other instances.", _pools
)
