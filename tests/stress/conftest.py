"""The end of a stress session: what was played, found, killed and counted."""

import pytest

from tests.stress.report import SECTIONS, SEED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the report, whether or not tests passed."""
    if not SECTIONS:
        return
    terminalreporter.section(f"stress report (ASYNCSCHED_STRESS_SEED={SEED})")
    for section, lines in SECTIONS.items():
        terminalreporter.write_line(section)
        for line in lines:
            terminalreporter.write_line(f"  {line}")
