"""A plot for the documentation: horizontal bars on a logarithmic axis, as SVG. Light and dark pages both work."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from attrs import frozen

from bench.measure import Measure, Report
from bench.table import figure

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 900, 330, 110, 14, 14, 64
OURS, THEIRS, GOAL = "#2a7de1", "#9aa4b2", "#d9480f"


@frozen
class Bar:
    """One bar of a group."""

    label: str
    value: float
    colour: str


def bars(measure: Measure) -> list[Bar]:
    others = [Bar(name, value, THEIRS) for name, value in measure.target.elsewhere.items()]
    return [Bar("asyncsched", measure.value, OURS), *others]


def draw(report: Report, machine: Mapping[str, Any]) -> str:
    """The measures that have something to be compared with: a goal, or another system."""
    groups = [one for one in report.ordered() if one.value > 0 and (one.target.elsewhere or one.target.goal)]
    rows = [(one, bars(one)) for one in groups]
    height = TOP + sum(len(drawn) * BAR + GAP for _, drawn in rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" fill="#6b7280">',
        '<text x="16" y="24" font-size="16" font-weight="bold">asyncsched, measured</text>',
        f'<text x="16" y="42">{escape(_subtitle(machine))}</text>',
    ]
    y = TOP
    for measure, drawn in rows:
        parts += _group(measure, drawn, y)
        y += len(drawn) * BAR + GAP
    parts += [f'<text x="16" y="{y + 12}">{line}</text>' for line in [_legend()]]
    return "\n".join([*parts, "</svg>", ""])


def _subtitle(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['taken_at'][:10]}, {machine['usable_cores']} cores, {machine['memory_gb']} GB, "
        f"PostgreSQL {machine.get('postgresql', '?')}. Logarithmic, each group on its own scale."
    )


def _legend() -> str:
    return "Line: the goal. Grey: measured earlier, on another machine of the same size."


def _group(measure: Measure, drawn: Sequence[Bar], y: float) -> list[str]:
    target = measure.target
    marks = [one.value for one in drawn] + ([target.goal] if target.goal else [])
    low = 10 ** math.floor(math.log10(min(marks)) - 0.3)
    span = math.log10(max(marks) / low) or 1.0
    room = WIDTH - LEFT - RIGHT

    def x(value: float) -> float:
        return LEFT + room * max(0.005, math.log10(value / low) / span)

    parts = [f'<text x="{LEFT - 10}" y="{y + BAR - 3}" text-anchor="end">{escape(target.title)}</text>']
    for i, one in enumerate(drawn):
        top = y + i * BAR
        label = f"{figure(one.value)} {target.unit}" + ("" if i == 0 else f", {one.label}")
        parts += [
            f'<rect x="{LEFT}" y="{top + 1}" width="{x(one.value) - LEFT:.1f}" height="{BAR - 2}" '
            f'fill="{one.colour}"/>',
            f'<text x="{x(one.value) + 5:.1f}" y="{top + BAR - 3}" font-size="10">{escape(label)}</text>',
        ]
    if target.goal:
        at, bottom = x(target.goal), y + len(drawn) * BAR + 2
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 2}" y2="{bottom}" stroke="{GOAL}" stroke-width="2"/>')
    return parts
