"""Cancels at random instants, on warm and cold pools, with more callers than slots: nothing is left behind."""

import pytest
import trio
from attrs import evolve

from tests.database import Server
from tests.stress.cancelling import OFTEN, Storm, checked_out, left_open
from tests.stress.machine import processors
from tests.stress.report import SEED, number, tell
from tests.world import chain, every, open_world

pytestmark = [pytest.mark.stress, pytest.mark.alone]

CANCELS = number("CANCELS", 10_000)
FLOOR = min(2_500, CANCELS)
"""How many there are on any machine, however long they take."""
SECONDS = number("CANCEL_SECONDS", 40)
BOUND_S = 0.050
"""p99 of the time from a cancel to the return of the call."""


async def test_ten_thousand_cancels_leave_nothing_behind(server: Server, dsn: str) -> None:
    """A cancel waits for its own transaction, not for anybody else's, and never leaves half of one.

    The bound is on real time, so it holds on a machine that is ours. Where others have had the processors it is as
    many times longer as everything of ours took longer (`machine.slowdown`): a transaction is ten round trips between
    two processes, and each of them may wait for a processor as often. Nothing else depends on the load.
    """
    async with open_world(dsn, connections=5) as world:
        await world.put(
            *(chain(3, f"chain{i}") for i in range(10)), evolve(chain(2, "due"), schedule=every(0.5)), source="storm"
        )
        storm = Storm(world=world, seed=SEED)
        # two thirds on a warm pool, where the bound on the overshoot holds
        with processors(server) as machine:
            await storm.blow(cancels=CANCELS * 2 // 3, seconds=SECONDS * 2 / 3)
        warm, slow, late = storm.cancels, storm.percentile(0.99), storm.lateness()
        # the rest on a pool whose connections keep going away, so that connects happen under cancels
        until = trio.current_time() + SECONDS / 3
        while storm.cancels < CANCELS and (trio.current_time() < until or storm.cancels < FLOOR):
            await world.bridge.shielded(world.store.engine.dispose)
            await storm.blow(cancels=100, seconds=max(1.0, until - trio.current_time()))
        with trio.fail_after(10):
            while checked_out(world.store):
                await trio.sleep(0.01)
        bound = BOUND_S * machine.slowdown
        figures = (
            f"{storm.cancels} cancels ({warm} warm, {storm.cancels - warm} while connecting;"
            f" {storm.felt_after} were felt after a transaction, {storm.cancels - storm.felt_after} before one),"
            f" {storm.finished} calls finished; overshoot p50 {1000 * storm.percentile(0.5):.1f} ms,"
            f" p99 {1000 * slow:.1f} ms (warm, bound {1000 * bound:.0f} ms), max {1000 * max(storm.overshoot):.0f} ms;"
            f" the loop itself was late by {1000 * late:.1f} ms (p99); others had {machine.others:.2f} cores"
        )
        tell("cancellation", figures)
        tell("cancellation", f"by writer: {', '.join(f'{name} {n}' for name, n in storm.cut.most_common())}")
        wrong = {
            "left open in the database": left_open(server, dsn),
            "promised and not there, or the other way round": await storm.wrong(),
            "neither a result nor a cancel": dict(storm.answers),
            "errors that nobody awaited": dict(world.bridge.error_counts),
            "deadlocks": world.store.deadlocks,
            "fewer cancels than asked for, on a machine of our own": machine.quiet and storm.cancels < CANCELS,
            "too few cancels": storm.cancels < FLOOR,
            "no cancel while connecting": storm.cancels - warm < FLOOR / 10,
            "never cancelled": set(OFTEN) - storm.cut.keys(),
            "never finished": {name for name in OFTEN if not storm.ended[name]},
            f"a cancel took too long (p99, in s; bound {bound:.3f})": slow if slow > bound else 0,
        }
        found = {what: value for what, value in wrong.items() if value}
        assert not found, f"{found}\n{figures}"
