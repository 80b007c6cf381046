"""Descriptors and chores of many attempts, seen to by one trio task instead of several for each."""

import select
from collections.abc import Callable
from typing import Never

import trio

_EVENTS = 256
_CHORE_SECONDS = 0.01


class Readiness:
    """Calls back when a descriptor can be read (or has been hung up on), from the trio thread.

    Calls must not block and must not raise; they come again until everything is read or `unwatch` is called. A call
    for a descriptor that was closed and opened anew in the same instant may find nothing to read.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], object]] = {}
        self._chores: list[Callable[[], object]] = []
        self._have_chores = trio.Event()

    def watch(self, fd: int, call: Callable[[], object]) -> None:
        """Call back whenever `fd` can be read."""
        self._calls[fd] = call
        self._epoll.register(fd, select.EPOLLIN)

    def want_to_write(self, fd: int, wanted: bool) -> None:
        """Call back also (or no longer) when a watched `fd` can be written."""
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """No more calls. To be called before `fd` is closed; does nothing when it is not watched."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, chore: Callable[[], object]) -> None:
        """Call `chore` once, in some ten milliseconds: for what must not stand in the way of an attempt."""
        self._chores.append(chore)
        self._have_chores.set()

    async def run(self) -> Never:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._do_chores)
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    for fd, _ in self._epoll.poll(0, _EVENTS):
                        call = self._calls.get(fd)
                        if call is not None:  # an earlier one may have unwatched it
                            call()
        finally:
            self._epoll.close()

    async def _do_chores(self) -> Never:
        while True:
            await self._have_chores.wait()
            await trio.sleep(_CHORE_SECONDS)
            self._have_chores = trio.Event()
            chores, self._chores = self._chores, []
            for chore in chores:
                chore()
