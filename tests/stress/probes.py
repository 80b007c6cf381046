"""Writers of our own for stress tests, not registered: slow ones, ones that wait at a gate, ones that leave a mark."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import sqlalchemy as sa
import trio

from scheduler.store import tables as t
from scheduler.store.errors import OutcomeUnknown
from scheduler.store.locks import Lock, Mode, Wait, locking
from scheduler.store.transaction import Store
from scheduler.store.writer import Transaction, Writer
from tests.stress.proxy import Proxy

_ONE = locking(Lock.POOL, t.pool.c.name == sa.bindparam("name"), wait=Wait.WAIT)
_MARK = sa.text("UPDATE pool SET description = :mark WHERE id = ANY(:keys)")
_SLEEP = sa.text("SELECT pg_sleep(:seconds)")


def unregistered(function: Callable[..., Awaitable[Any]], *locks: Lock, inserts: tuple[Lock, ...] = ()) -> Any:
    """A writer that the register does not know: it is no part of the product."""
    return Writer(function.__name__, locks, inserts, Mode.NO_KEY_UPDATE, function)


async def _mark(tx: Transaction, name: str, mark: str, sleeps: tuple[float, ...] = ()) -> str:
    keys = await tx.lock(_ONE, name=name)
    for seconds in sleeps:
        await tx.fetch(_SLEEP, {"seconds": seconds})
    await tx.write(Lock.POOL, keys, _MARK, {"keys": keys, "mark": mark})
    return mark


mark = unregistered(_mark, Lock.POOL)
"""Lock a pool's row, perhaps sleep in some statements, write `mark` into its description."""


class Halt:
    """A stepper that stops transactions before a statement that contains `text`, until it is told to let them go."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.reached = 0
        self._go = asyncio.Event()

    async def before(self, transaction: Transaction, text: str) -> None:
        if self.text in text:
            self.reached += 1
            await self._go.wait()

    async def after(self, transaction: Transaction, text: str) -> None:
        """Nothing: it only stops who comes."""

    def release(self) -> None:
        """Let everybody go on; to be called on the loop's thread."""
        self._go.set()


async def cancelled_at_a_lost_commit(store: Store, proxy: Proxy, call: Callable[[], Awaitable[object]]) -> str:
    """Cancel a call while its COMMIT is under way, whose answer is lost; what it heard: done, unknown or cancelled."""
    halt = Halt("COMMIT")
    store.stepper = halt
    heard: list[str] = []

    async def caller() -> None:
        try:
            await call()
            heard.append("done")
        except OutcomeUnknown:
            heard.append("unknown")
        except trio.Cancelled:
            heard.append("cancelled")
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        while not halt.reached:
            await trio.sleep(0.005)
        proxy.lose_next_commit(after_server=True)
        nursery.cancel_scope.cancel()
        halt.release()
    store.stepper = None
    return heard[0]


async def fail(transaction: Transaction, sqlstate: str) -> None:
    """Have PostgreSQL fail a transaction's next statement with a given SQLSTATE; 25P03 ends the connection."""
    if sqlstate == "25P03":
        await transaction._driver.execute("SET LOCAL idle_in_transaction_session_timeout = '1ms'")
        await asyncio.sleep(0.05)  # only the server's own time-out can be waited for
    else:
        await transaction._driver.execute(
            f"DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{sqlstate}'; END $$"
        )
