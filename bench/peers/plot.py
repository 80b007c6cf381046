"""The comparison as a plot for the documentation: ours and the others, a logarithmic axis for each measure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from bench.peers.board import MEASURES, TITLES, Board, Cell, Side
from bench.plot import BAR, GAP, LEFT, OURS, RIGHT, THEIRS, TOP, WIDTH
from bench.table import figure

MISSING = "not measured"


def draw(board: Board, machine: Mapping[str, Any]) -> str:
    """Bars for medians, whiskers from the smallest to the largest; a system without a figure says so."""
    parts, y = [], TOP
    for group, title in TITLES.items():
        sides = board.group(group)
        if not sides:
            continue
        parts.append(f'<text x="16" y="{y}" font-weight="bold">{escape(title)}</text>')
        y += GAP
        for name, target in MEASURES[group].items():
            cells = board.cells(group, name)
            drawn = [
                (side, cell)
                for side, cell in zip(sides, cells, strict=True)
                if cell is not None or not side.report.measures
            ]
            if any(cell is not None and cell.median > 0 for _, cell in drawn):
                parts += _measure(f"{target.title}, {target.unit}".rstrip(", "), drawn, y)
                y += len(drawn) * BAR + GAP
        y += GAP
    subtitle = (
        f"{machine['taken_at'][:10]}, {machine['usable_cores']} cores, {machine['memory_gb']} GB, PostgreSQL "
        f"{machine.get('postgresql', '?')}. One run, in alternating order. Logarithmic, each measure on its own scale."
    )
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + GAP}" font-family="sans-serif" '
        'font-size="12" fill="#6b7280">',
        '<text x="16" y="24" font-size="16" font-weight="bold">asyncsched beside other systems, measured</text>',
        f'<text x="16" y="42">{escape(subtitle)}</text>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _measure(title: str, drawn: Sequence[tuple[Side, Cell | None]], y: int) -> list[str]:
    values = [value for _, cell in drawn if cell is not None for value in (cell.low, cell.high) if value > 0]
    low = 10 ** math.floor(math.log10(min(values)) - 0.3)
    span = math.log10(max(values) / low) or 1.0
    room = WIDTH - LEFT - RIGHT - 60

    def x(value: float) -> float:
        return LEFT + room * max(0.005, math.log10(max(value, low) / low) / span)

    parts = [f'<text x="{LEFT - 10}" y="{y + BAR - 3}" text-anchor="end">{escape(title)}</text>']
    for number, (side, cell) in enumerate(drawn):
        top = y + number * BAR
        middle = top + BAR / 2
        if cell is None:
            label = f"{side.title}: {MISSING}"
            parts.append(f'<text x="{LEFT + 5}" y="{top + BAR - 3}" font-size="10">{escape(label)}</text>')
            continue
        colour = OURS if side.ours else THEIRS
        ratio = f", x{figure(cell.ratio)}" if cell.ratio is not None else ""
        label = f"{figure(cell.median)} {side.title}{ratio}"
        parts += [
            f'<rect x="{LEFT}" y="{top + 1}" width="{x(cell.median) - LEFT:.1f}" height="{BAR - 2}" fill="{colour}"/>',
            f'<line x1="{x(cell.low):.1f}" x2="{x(cell.high):.1f}" y1="{middle}" y2="{middle}" stroke="#374151"/>',
            f'<text x="{x(cell.high) + 5:.1f}" y="{top + BAR - 3}" font-size="10">{escape(label)}</text>',
        ]
    return parts
