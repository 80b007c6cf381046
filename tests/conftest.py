"""What all tests share: async tests run under trio, and a real PostgreSQL with a fresh database for each test."""

import inspect
from collections.abc import Iterator
from itertools import groupby, zip_longest
from typing import Any

import pytest
import trio

from tests import done
from tests.database import Server, running_server
from tests.interleavings.lockdep import LOCKDEP, CycleFound
from tests.stress import report

LIMIT_S = 120.0
"""A test that hangs is a failure with a traceback, not a job that is killed an hour later."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test function under trio."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            await pyfuncitem.obj(**arguments)

    trio.run(main)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker what the session has drawn."""
    node.workerinput["stress_seed"] = report.SEED


def pytest_configure(config: pytest.Config) -> None:
    """In a worker: take over the session's seed, before any test module is there."""
    told: dict[str, Any] | None = getattr(config, "workerinput", None)
    if told is not None:
        report.SEED = told["stress_seed"]


def pytest_report_header() -> str:
    """What replays the draws of this session, said before anything can end it."""
    return f"ASYNCSCHED_STRESS_SEED={report.SEED}"


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, each with a short one after it, or one worker ends long after the others.

    A worker has its next test in hand before it has ended one, so of two long ones in a row it would get both.
    """
    marked = {item: sum(mark.args[0] for mark in item.iter_markers("takes")) for item in items}
    long = sorted((item for item in items if marked[item]), key=lambda item: -marked[item])
    short = [item for item in items if not marked[item]]
    pairs = zip_longest(long, short[: len(long)])
    items[:] = [item for pair in pairs for item in pair if item is not None] + short[len(long) :]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker has ended: take over what it did."""
    done.unpack(node.workeroutput["done"]) if hasattr(node, "workeroutput") else CRASHED.append(str(error))


CRASHED: list[str] = []
"""What workers said that ended without a report."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker: hand over what was done. Else: see that all locks of all workers were taken in one order."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["done"] = done.pack()
        return
    try:
        LOCKDEP.check()
    except CycleFound as error:
        report.tell("locks", str(error))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was played, found, killed and counted, whether or not tests passed."""
    for heading, lines in groupby(done.lines(), key=lambda one: one[0]):
        terminalreporter.section(heading)
        for _, line in lines:
            terminalreporter.write_line(line)
    for error in CRASHED:
        terminalreporter.write_line(f"a worker ended without a report, so figures are missing: {error}")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One PostgreSQL for the session; see `tests.database` for how to use another one."""
    with running_server() as server:
        yield server


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    """The address of a database of its own with the current schema."""
    with server.database() as dsn:
        yield dsn


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    """The address of a database of its own with nothing in it."""
    with server.database(template="template0") as dsn:
        yield dsn
