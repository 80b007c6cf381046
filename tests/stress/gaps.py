"""One transaction as a whole in each gap between two statements of another."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import trio

from scheduler.store.writer import Transaction
from tests.world import World


class Gap:
    """Stops the first transaction before its n-th statement, lets the second one run or wait, then goes on."""

    def __init__(self, world: World, n: int) -> None:
        self._world = world
        self._n = n
        self._first: Transaction | None = None
        self._count = 0
        self._go = asyncio.Event()
        self.reached = False

    @classmethod
    def each(cls, world: World) -> Iterator["Gap"]:
        """Until the first transaction has no more statements."""
        n = 1
        while True:
            gap = cls(world, n)
            yield gap
            if not gap.reached:
                return
            n += 1

    async def play(self, first: Callable[[], Awaitable[Any]], second: Callable[[], Awaitable[Any]]) -> tuple[Any, Any]:
        """Returns what both return."""
        results: dict[str, Any] = {}

        async def run(name: str, call: Callable[[], Awaitable[Any]]) -> None:
            results[name] = await call()

        self._world.store.stepper = self
        try:
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, "first", first)
                    while not self.reached and "first" not in results:
                        await trio.sleep(0.001)
                    nursery.start_soon(run, "second", second)
                    while "second" not in results and not await self._somebody_waits():
                        await trio.sleep(0.001)
                    self._go.set()
        finally:
            self._world.store.stepper = None
        return results["first"], results["second"]

    async def _somebody_waits(self) -> bool:
        rows = await self._world.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(rows)

    async def before(self, transaction: Transaction, text: str) -> None:
        if self._first is None:
            self._first = transaction
        if transaction is self._first:
            self._count += 1
            if self._count == self._n:
                self.reached = True
                await self._go.wait()

    async def after(self, transaction: Transaction, text: str) -> None:
        """Nothing."""
