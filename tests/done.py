"""What a session did, gathered from all its processes: with `pytest -n`, tests run in workers and the end is here.

Figures and lines are added up. So is the graph of lock orders: two orders that make a circle need not have been
seen by the same worker.
"""

import pickle
from collections.abc import Iterator

from tests.interleavings.lockdep import LOCKDEP
from tests.interleavings.report import PARTS, part
from tests.stress import report

SEED = "ASYNCSCHED_STRESS_SEED"


def pack() -> bytes:
    """All that this process did, for `unpack` in another one of the same session."""
    return pickle.dumps((PARTS, report.SECTIONS, LOCKDEP.edges, LOCKDEP.modes, LOCKDEP.dropped))


def unpack(packed: bytes) -> None:
    """Add what another process did. The graph of lock orders is not judged yet."""
    parts, sections, edges, modes, dropped = pickle.loads(packed)
    for name, one in parts.items():
        part(name).count(**one.numbers)
        part(name).say(**one.words)
    for section, lines in sections.items():
        report.SECTIONS.setdefault(section, []).extend(lines)
    LOCKDEP.absorb(edges, modes, dropped)


def lines() -> Iterator[tuple[str, str]]:
    """The report: a heading, and a line under it."""
    heading = f"interleavings ({SEED}={report.SEED}, but for what names another seed)"
    for one in PARTS.values():
        yield heading, one.line()
    if LOCKDEP.edges:
        left_out = ", ".join(f"{n:,} {why}" for why, n in sorted(LOCKDEP.dropped.items())) or "none"
        yield (
            heading,
            f"orders of locks, of all writers together: {len(LOCKDEP.live())} edges without a circle;"
            f" left out: {left_out}, {LOCKDEP.harmless()} of modes without conflict",
        )
    for section, told in report.SECTIONS.items():
        for line in told:
            yield f"stress report ({SEED}={report.SEED})", f"{section}: {line}"
