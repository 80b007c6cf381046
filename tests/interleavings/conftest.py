"""The figures of these tests, at the end of the session's output."""

import pytest

from tests.interleavings.report import PARTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line a part."""
    if PARTS:
        terminalreporter.section("interleavings")
        for one in PARTS.values():
            terminalreporter.write_line(one.line())
