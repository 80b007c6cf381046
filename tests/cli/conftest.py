"""A home, a command line that uses it, and a daemon that answers what the test tells it to."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from scheduler.control.server import ControlServer
from scheduler.home import Home
from tests.cli.support import LIMIT_S, CommandLine, Daemon


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="home-") as directory:
        yield Path(directory)


@pytest.fixture
def asyncsched(home: Path) -> CommandLine:
    return CommandLine(home)


@pytest.fixture
def daemon(home: Path) -> Iterator[Daemon]:
    """A daemon that answers what the test tells it to, in a thread of its own."""
    place = Home(home)
    place.ensure({})
    scripted = Daemon()
    ready = threading.Event()
    scopes: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        server = ControlServer(path=place.control_socket, operations=scripted.operations(), context=None)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            scopes.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(LIMIT_S)
    try:
        yield scripted
    finally:
        token, scope = scopes[0]
        token.run_sync_soon(scope.cancel)
        thread.join(LIMIT_S)
