"""What counts as a kill, and what does not."""

import pytest
import trio

from scheduler.store.errors import LockOrderError
from tests import conftest
from tests.stress.kills import hear

pytestmark = pytest.mark.stress


@pytest.mark.parametrize(
    ("error", "is_kill"),
    [
        (AssertionError("two tasks in a pool of one slot"), True),
        (LockOrderError("rows that nobody locked"), True),
        (ExceptionGroup("", [AssertionError("one"), ExceptionGroup("", [LockOrderError("two")])]), True),
        (NameError("the mutant does not even run"), False),
        (TypeError("nor does this"), False),
        (ExceptionGroup("", [AssertionError("a consequence"), KeyError("of this")]), False),
        (trio.TooSlowError("it takes its time"), False),
    ],
    ids=repr,
)
async def test_a_check_says_so_or_it_is_no_kill(error: Exception, is_kill: bool) -> None:
    async def check() -> None:
        raise error

    told = await hear(check)
    assert told is not None
    assert told.is_kill is is_kill


async def test_another_error_is_a_kill_where_the_mutant_names_it() -> None:
    async def check() -> None:
        raise TimeoutError("the driver's own")

    for also, is_kill in (((), False), ((TimeoutError,), True)):
        told = await hear(check, also=also)
        assert told is not None
        assert told.is_kill is is_kill


async def test_to_come_to_no_end_is_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "LIMIT_S", 0.05)
    told = await hear(trio.sleep_forever)
    assert told is not None
    assert not told.is_kill


async def test_to_pass_is_to_say_nothing() -> None:
    assert await hear(trio.lowlevel.checkpoint) is None
