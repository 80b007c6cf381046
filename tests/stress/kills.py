"""What it means that a check kills a mutant: the check itself says what is wrong, within the time that tests have.

A mutant that does not even run (NameError, TypeError), or that takes its time, is not killed by that.
"""

import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
import trio
from attrs import frozen

from scheduler.store.errors import LockOrderError
from tests import conftest

TELLING: tuple[type[BaseException], ...] = (
    AssertionError,
    pytest.fail.Exception,  # pytest.raises: nothing was raised
    LockOrderError,
    asyncpg.IntegrityConstraintViolationError,  # the schema's own checks, and its foreign keys
)
"""An assertion of the check, the law of locks, or a constraint of the schema."""


@frozen
class Told:
    """How a check ended that did not pass."""

    what: str
    is_kill: bool

    def __str__(self) -> str:
        return self.what


def told_by(
    check: Callable[..., Awaitable[None]], *arguments: Any, also: tuple[type[BaseException], ...] = ()
) -> Told | None:
    """As `hear`, in a trio of its own."""

    async def run() -> Told | None:
        return await hear(check, *arguments, also=also)

    return trio.run(run)


async def hear(
    check: Callable[..., Awaitable[None]], *arguments: Any, also: tuple[type[BaseException], ...] = ()
) -> Told | None:
    """Run a check with the limit that tests have. None: it passes. `also`: what tells besides TELLING."""
    try:
        with trio.fail_after(conftest.LIMIT_S):
            await check(*arguments)
    except BaseException as error:
        leaves = list(_leaves(error))
        if any(isinstance(one, KeyboardInterrupt | SystemExit | trio.Cancelled) for one in leaves):
            raise
        odd = [one for one in leaves if not isinstance(one, (*TELLING, *also))]
        return Told(_said(odd[0] if odd else leaves[0]), is_kill=not odd)
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _said(error: BaseException) -> str:
    """Its name, and its message or else the line that raised it."""
    said = str(error).splitlines()[0] if str(error).strip() else ""
    if not said:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "/tests/" in one.filename]
        said = frames[-1].line or "" if frames else ""
    return compact(f"{type(error).__name__}: {said}", 120)


def compact(text: str, width: int) -> str:
    """In one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 2]}.."
