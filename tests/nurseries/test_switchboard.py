"""Wake-ups coalesce and are never lost."""

import gc

import pytest
import trio
import trio.testing

from nurseries.switchboard import Switchboard


async def test_a_poke_before_the_wait_is_not_lost_and_many_are_one() -> None:
    board = Switchboard()
    wakeup = board.subscribe("a", "b")
    board.poke("a")
    board.poke("a", "b")
    await wakeup.wait()
    with trio.move_on_after(0) as scope:
        await wakeup.wait()
    assert scope.cancelled_caught


async def test_a_cancelled_wait_keeps_the_poke() -> None:
    board = Switchboard()
    wakeup = board.subscribe("a")
    board.poke("a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await wakeup.wait()
    assert scope.cancelled_caught
    await wakeup.wait()


async def test_everybody_subscribed_hears_it_and_nobody_else() -> None:
    board = Switchboard()
    heard: list[str] = []

    async def listen(name: str, *topics: str) -> None:
        await board.subscribe(*topics).wait()
        heard.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, "one", "a")
        nursery.start_soon(listen, "two", "a", "b")
        nursery.start_soon(listen, "three", "c")
        await trio.testing.wait_all_tasks_blocked()
        board.poke("a", "nobody listens to this")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(heard) == ["one", "two"]
        nursery.cancel_scope.cancel()


async def test_a_poke_that_comes_while_the_waiter_is_being_woken_is_not_lost() -> None:
    board = Switchboard()
    wakeup = board.subscribe("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeup.wait)
        nursery.start_soon(wakeup.wait)
        await trio.testing.wait_all_tasks_blocked()
        board.poke("a")
        await trio.testing.wait_all_tasks_blocked()
    board.poke("a")
    await wakeup.wait()


async def test_a_closed_or_forgotten_subscription_is_not_kept() -> None:
    board = Switchboard()
    with board.subscribe("a") as wakeup:
        assert "1 topics" in repr(board)
    assert "0 topics" in repr(board)
    wakeup.close()
    dropped = board.subscribe("b")
    assert repr(dropped) == "<Wakeup b>"
    dropped.poke()
    assert repr(dropped) == "<Wakeup b poked>"
    dropped.forget()
    assert repr(dropped) == "<Wakeup b>"
    del dropped
    gc.collect()
    board.poke("a", "b")


@pytest.mark.parametrize("topic", ["text", 1, ("a", "tuple"), None])
async def test_topics_are_anything_hashable(topic: object) -> None:
    board = Switchboard()
    wakeup = board.subscribe(topic)
    board.poke(topic)
    await wakeup.wait()
