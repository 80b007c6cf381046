"""The table on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measure import Measure, Report
from bench.split_table import cpu_table


def figure(value: float | None) -> str:
    """Three significant digits, as people read them."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show(report: Report, machine: Mapping[str, Any], settings: Mapping[str, Any], *, console: Console) -> None:
    """Print everything that was measured, and what failed."""
    table = Table(title="asyncsched, measured", title_justify="left", caption=caption(machine, settings))
    table.caption_justify = "left"
    table.add_column("measure")
    for heading in ("figure", "min - max"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for heading in ("goal", "elsewhere*"):
        table.add_column(heading, justify="right")
    for measure in report.ordered():
        table.add_row(*_row(measure), style=None if measure.reached is not False else "yellow")
    console.print(table)
    split = cpu_table(report)
    if split is not None:
        console.print(split)
    for measure in report.ordered():
        for details in measure.details:
            if "note" in details:
                console.print(details["note"], soft_wrap=True)
    for failure in report.failures:
        console.print(Text.assemble(("failed: ", "red"), failure))


def _row(measure: Measure) -> list[str]:
    target = measure.target
    sign = "≥ " if target.more_is_better else "≤ "
    return [
        target.title,
        figure(measure.value),
        f"{figure(min(measure.samples))} - {figure(max(measure.samples))}" if len(measure.samples) > 1 else "",
        target.unit,
        "" if target.goal is None else sign + figure(target.goal) + (" ✓" if measure.reached else " ✗"),
        " / ".join(figure(value) for value in target.elsewhere.values()),
    ]


def caption(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Where the figures come from."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    return "\n".join(
        [
            f"{machine['taken_at']}, commit {machine['commit']}; {machine['usable_cores']} cores ({machine['cpu']}), "
            f"{machine['memory_gb']} GB, {machine['file_system']}, Linux {machine['kernel']}, "
            f"load before {machine['load_average_at_start'][0]}",
            f"Python {machine['python']}, PostgreSQL {machine.get('postgresql', '?')}; {packages}",
            "PostgreSQL: " + ", ".join(f"{name}={value}" for name, value in settings.get("postgresql", {}).items()),
            f"median of {settings['repeat']} repetitions, p50, p99 and max of the samples of all of them together, "
            f"min - max of the repetitions{'; QUICK: figures mean little' if settings['quick'] else ''}",
            "* Airflow 3.3.2 with its defaults / tuned, measured earlier on another machine with 2 cores and 24 GB",
        ]
    )
