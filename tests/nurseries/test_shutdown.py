"""N21: the first signal asks, the grace bounds, the second cancels. With real signals to this very process."""

import os
import signal

import pytest
import trio
import trio.testing

from nurseries.shutdown import Ending, Shutdown, run_until_stopped


def me(number: int) -> None:
    os.kill(os.getpid(), number)


async def test_n21_main_may_end_by_itself() -> None:
    async def main(shutdown: Shutdown) -> None:
        assert "not requested" in repr(shutdown)

    assert await run_until_stopped(main, grace=1) is Ending.FINISHED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_n21_a_signal_asks_and_main_drains(number: signal.Signals) -> None:
    seen = ""

    async def main(shutdown: Shutdown) -> None:
        nonlocal seen
        me(number)
        await shutdown.requested.wait()
        seen = shutdown.reason
        await trio.sleep(0.01)

    assert await run_until_stopped(main, grace=60) is Ending.DRAINED
    assert seen == number.name


async def test_n21_the_grace_bounds_the_drain() -> None:
    async def main(shutdown: Shutdown) -> None:
        me(signal.SIGTERM)
        await trio.sleep_forever()

    assert await run_until_stopped(main, grace=0.05) is Ending.GRACE_OVER


async def test_n21_a_second_signal_cancels_at_once_and_a_third_changes_nothing() -> None:
    cleaned_up = False

    async def main(shutdown: Shutdown) -> None:
        nonlocal cleaned_up
        me(signal.SIGINT)
        await shutdown.requested.wait()
        me(signal.SIGTERM)
        try:
            await trio.sleep_forever()
        finally:
            me(signal.SIGTERM)
            with trio.move_on_after(0.05, shield=True):
                await trio.sleep_forever()
            cleaned_up = True

    assert await run_until_stopped(main, grace=3600) is Ending.CANCELLED
    assert cleaned_up


async def test_n21_it_may_be_asked_from_inside() -> None:
    async def main(shutdown: Shutdown) -> None:
        shutdown.request("the disk is full")
        shutdown.request("again")
        assert shutdown.reason == "the disk is full"
        await trio.sleep_forever()

    assert await run_until_stopped(main, grace=0.01) is Ending.GRACE_OVER


async def test_n21_what_main_raises_leaves_as_itself() -> None:
    async def main(shutdown: Shutdown) -> None:
        raise LookupError("plain")

    with pytest.raises(LookupError, match="plain"):
        await run_until_stopped(main, grace=1)


async def test_n21_a_cancel_from_outside_passes(autojump_clock: trio.testing.MockClock) -> None:
    async def main(shutdown: Shutdown) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await run_until_stopped(main, grace=1)
    assert scope.cancelled_caught


async def test_n21_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def main(shutdown: Shutdown) -> None:
        assert signal.getsignal(signal.SIGTERM) is not before

    await run_until_stopped(main, grace=1)
    assert signal.getsignal(signal.SIGTERM) is before
