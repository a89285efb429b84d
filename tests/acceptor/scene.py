"""Clients of fake workers, one of which is to move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from tests.acceptor.serving import Client, Server, serving, until


@attrs.define
class Scene:
    """A client logged in at one worker, with ``third`` and ``fourth``; ``other`` is at the second worker, and
    ``elsewhere`` and ``beside`` at the last. ``cancelled``: the answers to the cancel requests so far.
    """

    server: Server
    client: Client
    other: Client
    elsewhere: Client
    beside: Client
    third: Client
    fourth: Client
    cancelled: list[str] = attrs.Factory(list)

    async def begin_move(self) -> None:
        """Have the client sent away; its worker reads it no more when this is over."""
        await self.client.stream.send_all(b"move\n")
        for _ in range(2):  # in one of two rounds the worker has come to it
            await self.third.say("echo")

    async def cancel_by(self, canceller: Client) -> None:
        self.cancelled.append(await canceller.say("cancel 5"))


@asynccontextmanager
async def scene(folder: Path, workers: int = 2, **settings: object) -> AsyncIterator[Scene]:
    """Some clients, which are closed at the end; then nothing may be left."""
    async with serving(Server(folder, workers=workers, **settings)) as server:
        clients = [await server.connect() for _ in range(2 * workers + 1)]
        client, other, elsewhere = clients[0], clients[1], clients[workers - 1]
        beside = clients[2 * workers - 1]
        third, fourth = clients[workers], clients[2 * workers]
        assert client.slot == third.slot == fourth.slot != other.slot
        assert await client.say("up 5 app alice") == "ok"
        yield Scene(server, client, other, elsewhere, beside, third, fourth)
        for one in clients:
            await one.close()
        await until(server, "poolproxy_clients", 0)
