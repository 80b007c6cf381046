"""A byte proxy in front of PostgreSQL's socket that can lose the reply to a COMMIT, or the COMMIT itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

NAME = ".s.PGSQL.5432"
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class Proxy:
    """Passes on everything, until it is told to lose the next COMMIT."""

    def __init__(self, server: Path) -> None:
        self._server = server / NAME
        self._lose: str | None = None
        self._then_away = False
        self.is_away = False
        """Everybody is cut off, until this is set to False."""
        self.lost = 0

    def lose_next_commit(self, *, after_server: bool, then_away: bool = False) -> None:
        """Cut the connection that sends the next COMMIT: once the server has answered it, or before it hears of it.

        `then_away`: from then on nobody gets through.
        """
        self._lose = "reply" if after_server else "request"
        self._then_away = then_away

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Path, folder: Path) -> AsyncIterator["Proxy"]:
        """Listen in `folder` for clients of the server whose socket is in `server`."""
        proxy = cls(server)
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(folder / NAME))
        listener.listen(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, proxy._serve, [trio.SocketListener(listener)])
            try:
                yield proxy
            finally:
                nursery.cancel_scope.cancel()

    async def _serve(self, client: trio.SocketStream) -> None:
        async with await trio.open_unix_socket(self._server) as server, client:
            cut: list[str] = []
            async with trio.open_nursery() as nursery:

                async def up() -> None:
                    async for data in client:
                        if self.is_away:
                            nursery.cancel_scope.cancel()
                            break
                        if self._lose is not None and COMMIT in data:
                            cut.append(self._lose)
                            self._lose = None
                            self.lost += 1
                            self.is_away = self._then_away
                            if cut[0] == "request":
                                break
                        await server.send_all(data)
                    if "reply" not in cut:
                        nursery.cancel_scope.cancel()

                async def down() -> None:
                    async for data in server:
                        if cut:
                            break  # the server has answered, nobody hears it
                        await client.send_all(data)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(self._quietly, up)
                nursery.start_soon(self._quietly, down)

    async def _quietly(self, pump) -> None:  # type: ignore[no-untyped-def]
        try:
            await pump()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
