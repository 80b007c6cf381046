"""Cancels at random instants, on warm and cold pools, with more callers than slots: nothing is left behind."""

import pytest
import trio
from attrs import evolve

from tests.database import Server
from tests.stress.cancelling import Storm, checked_out, left_open
from tests.stress.report import SEED, number, tell
from tests.world import chain, every, open_world

pytestmark = pytest.mark.stress

CANCELS = number("CANCELS", 10_000)
SECONDS = number("CANCEL_SECONDS", 40)


async def test_ten_thousand_cancels_leave_nothing_behind(server: Server, dsn: str) -> None:
    async with open_world(dsn, connections=5) as world:
        await world.put(
            *(chain(3, f"chain{i}") for i in range(10)), evolve(chain(2, "due"), schedule=every(0.5)), source="storm"
        )
        storm = Storm(world=world, seed=SEED)
        # two thirds on a warm pool, where the bound on the overshoot holds
        await storm.blow(cancels=CANCELS * 2 // 3, seconds=SECONDS * 2 / 3)
        warm, slow, late = storm.cancels, storm.percentile(0.99), storm.lateness()
        # the rest on a pool whose connections keep going away, so that connects happen under cancels
        until = trio.current_time() + SECONDS / 3
        while storm.cancels < CANCELS and trio.current_time() < until:
            await world.bridge.shielded(world.store.engine.dispose)
            await storm.blow(cancels=100, seconds=until - trio.current_time())
        with trio.fail_after(10):
            while checked_out(world.store):
                await trio.sleep(0.01)
        tell(
            "cancellation",
            f"{storm.cancels} cancels ({warm} warm, {storm.cancels - warm} while connecting), {storm.finished} calls"
            f" finished; overshoot p50 {1000 * storm.percentile(0.5):.1f} ms, p99 {1000 * slow:.1f} ms (warm),"
            f" max {1000 * max(storm.overshoot):.0f} ms;"
            f" the loop itself was late by {1000 * late:.1f} ms (p99)",
        )
        assert left_open(server, dsn) == ""
        assert await storm.wrong() == ""
        assert not storm.answers, f"nothing but results and cancels: {storm.answers}"
        assert not world.bridge.error_counts
        assert world.store.deadlocks == 0
        assert slow <= 0.050 + late, "a cancel waits for its own transaction, not for anybody else's"
