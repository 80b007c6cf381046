"""The checks that kill mutants pass on the code as it is."""

import inspect

import pytest

from tests.database import Server
from tests.stress import checks

pytestmark = pytest.mark.stress

ALL = [
    one
    for name, one in sorted(vars(checks).items())
    if inspect.iscoroutinefunction(one) and list(inspect.signature(one).parameters) == ["server", "dsn"]
]


@pytest.mark.parametrize("check", ALL, ids=lambda one: one.__name__)
async def test_the_code_as_it_is(check: checks.Check, server: Server, dsn: str) -> None:
    await check(server, dsn)
