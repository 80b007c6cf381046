"""Two wrong ways to run a transaction, in place of the right one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from scheduler.store.transaction import Store
from scheduler.store.writer import BEGINNING, Transaction, Writer


class _Driver:
    """The driver, with a crossing for every call."""

    def __init__(self, driver: Any, bridge: Any) -> None:
        self._driver = driver
        self._bridge = bridge

    async def execute(self, *arguments: Any) -> Any:
        return await self._bridge.cancellable(self._driver.execute, *arguments)

    async def fetch(self, *arguments: Any) -> Any:
        return await self._bridge.cancellable(self._driver.fetch, *arguments)

    async def fetchrow(self, *arguments: Any) -> Any:
        return await self._bridge.cancellable(self._driver.fetchrow, *arguments)


@contextmanager
def one_for_each_statement() -> Iterator[None]:
    """Begin, each statement and COMMIT cross on their own, as one would write it without thinking of cancels."""
    original = Store.transact

    async def transact(self: Store, writer: Writer[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
        async with self.slots:
            connection = await self.bridge.cancellable(self.engine.connect)
            try:
                raw = (await self.bridge.cancellable(connection.get_raw_connection)).driver_connection
                driver = _Driver(raw, self.bridge)
                await driver.execute("BEGIN")
                try:
                    beginning = await driver.fetchrow(BEGINNING)
                    tx = Transaction(driver, self._now(beginning["now"]), writer.allowed, name=writer.name)
                    result = await writer.function(tx, *args, **kwargs)
                    await driver.execute("COMMIT")
                except BaseException:
                    await driver.execute("ROLLBACK")
                    raise
            finally:
                await self.bridge.cancellable(connection.close)
        self.transactions += 1
        self.poke(*tx.announcements)
        return result

    Store.transact = transact  # type: ignore[method-assign]
    try:
        yield
    finally:
        Store.transact = original  # type: ignore[method-assign]


@contextmanager
def slot_inside_the_shield() -> Iterator[None]:
    """Shield first, then wait for a slot."""
    original = Store.transact

    async def transact(self: Store, writer: Any, /, *args: Any, **kwargs: Any) -> Any:
        with trio.CancelScope(shield=True):
            return await original(self, writer, *args, **kwargs)

    Store.transact = transact  # type: ignore[method-assign]
    try:
        yield
    finally:
        Store.transact = original  # type: ignore[method-assign]
