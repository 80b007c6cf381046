"""End-to-end tests show what the daemons said when they fail."""

from collections.abc import Generator
from typing import Any

import pytest

from tests.end_to_end.daemon import living


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        for daemon in living:
            report.sections.append((f"log of the daemon of {daemon.home}", daemon.log()))
    return report
