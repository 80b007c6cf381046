"""The comparison on the terminal: a table for each group, its systems side by side."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.peers.board import DAGS, JOBS, MEASURES, TITLES, Board, Cell
from bench.peers.shapes import Sizes
from bench.table import figure

RATIOS = {
    DAGS: "xN: so many times ours; in parentheses the smallest and the largest",
    JOBS: "xN: jobs/s, so many times our tasks/s of a fan-out; in parentheses the smallest and the largest",
}


def text(cell: Cell | None) -> str:
    """Median, spread if there is one, and how many times ours."""
    if cell is None:
        return "-"
    parts = [figure(cell.median)]
    if cell.low != cell.high:
        parts.append(f"({figure(cell.low)} - {figure(cell.high)})")
    if cell.ratio is not None:
        parts.append(f"x{figure(cell.ratio)}")
    return " ".join(parts)


def rows(board: Board, group: str) -> list[list[str]]:
    """The lines for which at least one system has a figure."""
    found = []
    for name, target in MEASURES[group].items():
        cells = board.cells(group, name)
        if any(cell is not None for cell in cells):
            found.append([f"{target.title}, {target.unit}".rstrip(", "), *map(text, cells)])
    return found


def sizes(chosen: Sizes) -> str:
    """What the figures were measured with, in words."""
    return (
        f"chain of {chosen.chain}, 1 -> {chosen.fan} -> 1, {chosen.runs} runs x 10 ({chosen.our_runs} for ours), "
        f"{chosen.triggers} triggers, idle {chosen.idle_s:.0f} s; {chosen.jobs:,} jobs, {chosen.pickups} pick-ups; "
        f"at most {chosen.limit_s:.0f} s for one piece and {chosen.budget_s:.0f} s for one system"
    )


def show(board: Board, chosen: Sizes, console: Console) -> None:
    """Print a table for each group that has a system, then what could not be measured."""
    for group, title in TITLES.items():
        sides = board.group(group)
        if not sides:
            continue
        notes = [sizes(chosen), RATIOS[group]]
        notes += [f"{side.title}: {side.what}" for side in sides if side.what]
        table = Table(title=title, title_justify="left", caption="\n".join(notes), caption_justify="left")
        table.add_column("measure")
        for side in sides:
            table.add_column(side.title, justify="right")
        for row in rows(board, group):
            table.add_row(*row)
        console.print(table)
        for line in board.not_measured(group):
            console.print(Text(line, style="red"))
        for line in board.cut_off(group):
            console.print(Text(line, style="yellow"))
