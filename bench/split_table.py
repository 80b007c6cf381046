"""Where the CPU of a task instance goes, as a table below the figures: by process, by layer, by routine."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from bench.measure import Report
from bench.split import LAYERS

PREFIX = "scheduler_"
SMALL = 0.01
"""A routine that has less of the scheduler's CPU than this in every shape is not worth a line."""
PROCESSES = ("scheduler", "worker", "postgres")


def cpu_table(report: Report) -> Table | None:
    """A column for each shape of which the CPU was split; None if there is none."""
    found = {
        name.removeprefix(PREFIX): measure.details
        for name, measure in report.measures.items()
        if name.startswith(PREFIX) and any("split" in one for one in measure.details)
    }
    if not found:
        return None
    table = Table(title="CPU of a task instance, ms, scheduler only", title_justify="left", caption=CAPTION)
    table.caption_justify = "left"
    table.add_column("")
    for shape in found:
        table.add_column(shape, justify="right")
    _section(table, "process", PROCESSES, [_by_process(details) for details in found.values()])
    layers = [_of_split(details, "by_layer_ms") for details in found.values()]
    _section(table, "layer", dict.fromkeys([*(layer for _, layer in LAYERS), *_names(layers)]), layers)
    routines = [_of_split(details, "by_routine_ms") for details in found.values()]
    large = [name for name in _names(routines) if any(one[name] >= SMALL * sum(one.values()) for one in routines)]
    _section(table, "routine", large, routines)
    samples = [sum(one["split"]["samples"] for one in details) for details in found.values()]
    table.add_row("samples", *(f"{count:,}" for count in samples))
    return table


CAPTION = (
    "Processes: of the measured work. Layers and routines: the process scheduler, of the same work done again while\n"
    "its stack was sampled; either sums up to all of it. The routine `other` is what none has on its stack."
)


def _by_process(details: Sequence[Mapping[str, Any]]) -> Counter[str]:
    tasks = sum(one["tasks"] for one in details)
    sums: Counter[str] = Counter()
    for one in details:
        for name, seconds in one["cpu_s"].items():
            sums[name] += 1000 * seconds / tasks
    return sums


def _of_split(details: Sequence[Mapping[str, Any]], by: str) -> Counter[str]:
    """Of all repetitions together, each with the weight of its task instances."""
    tasks = sum(one["split"]["tasks"] for one in details)
    sums: Counter[str] = Counter()
    for one in details:
        for name, ms in one["split"][by].items():
            sums[name] += ms * one["split"]["tasks"] / tasks
    return sums


def _names(columns: Sequence[Counter[str]]) -> list[str]:
    """The largest first."""
    together: Counter[str] = Counter()
    for one in columns:
        together.update(one)
    return [name for name, _ in together.most_common()]


def _section(table: Table, what: str, names: Iterable[str], columns: Sequence[Counter[str]]) -> None:
    for name in names:
        table.add_row(f"{what}: {name}", *(f"{one[name]:.4f}" for one in columns))
    table.add_section()
