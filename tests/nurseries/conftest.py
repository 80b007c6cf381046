"""Async tests here run under trio, with `autojump_clock` where they ask for it, and must leave nothing behind."""

import inspect
from collections.abc import Iterator

import pytest
import trio
import trio.testing

# A test that hangs is a failure with a traceback, not a job that is killed an hour later.
LIMIT_S = 60.0


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Time that jumps to the next deadline whenever everybody waits."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test function under trio."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    clock = arguments.get("autojump_clock")

    async def main() -> None:
        if clock is not None:
            await pyfuncitem.obj(**arguments)
            return
        with trio.fail_after(LIMIT_S):
            await pyfuncitem.obj(**arguments)

    trio.run(main, clock=clock)
    return True


@pytest.fixture
def no_new_fds() -> Iterator[None]:
    """The test leaves as many file descriptors open as there were."""
    from nurseries.testing import open_fds

    before = open_fds()
    yield
    left = {fd: what for fd, what in open_fds().items() if fd not in before}
    assert not left
