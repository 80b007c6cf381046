"""Which queued runs may start, given their dags' limits."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from attrs import frozen


@frozen(kw_only=True)
class QueuedRun:
    """A run that waits for its start."""

    key: int
    dag_pk: int
    run_after: datetime


def startable(queued: Iterable[QueuedRun], *, room: Mapping[int, int], now: datetime) -> tuple[int, ...]:
    """Keys of the runs to start, ascending: of each dag the earliest first, as far as `room` (by dag) allows.

    A run whose run_after lies in the future stays queued.
    """
    left = dict(room)
    started: list[int] = []
    for run in sorted(queued, key=lambda run: (run.run_after, run.key)):
        if run.run_after <= now and left.get(run.dag_pk, 0) > 0:
            left[run.dag_pk] -= 1
            started.append(run.key)
    return tuple(sorted(started))
