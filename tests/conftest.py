"""What all tests share: async tests run under trio, and a real PostgreSQL with a fresh database for each test."""

import inspect
from collections.abc import Iterator

import pytest
import trio

from tests.database import Server, running_server

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
