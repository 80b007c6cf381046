"""Who gets a slot: ready tasks in the order of admission, against limits counted under the locks of their owners."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from attrs import frozen

from scheduler.decisions.admission import Admission, Candidate, Room, admit, free
from scheduler.decisions.graph import Graph
from scheduler.model import Task
from scheduler.store.usage import Usage

NOBODY = Admission(admitted=(), full_runs=frozenset(), full_pools=frozenset())

Precedence = tuple[int, datetime, int, int]
"""The order of admission, as in `tasks.ready`: by priority, then the run's date, the task's position, the key."""


def precedence(task: Task, order: datetime, index: int, key: int) -> Precedence:
    """`order`: the run's logical date, or its run_after."""
    return -task.priority_weight, order, index, key


@frozen(kw_only=True)
class Ready:
    """A task that may have a slot."""

    key: int
    run_pk: int
    pool: str
    pool_slots: int
    precedence: Precedence
    index: int | None = None
    """Its position, if it has become ready in this transaction."""


def decide(
    ready: Sequence[Ready],
    graphs: Mapping[int, Graph],
    use: Usage,
    slots: int,
    *,
    ending: Iterable[tuple[int, Task]] = (),
    counted: bool = True,
) -> Admission:
    """Which of these, in their order, get a slot: as many as every limit allows, and at most `slots`.

    `graphs` by run. `ending`: (run, task) of attempts that end in this transaction and give their slots back in it.
    `counted`: the pools are held, so nobody else takes what is free in them. If not, no more slots are given than come
    back in this transaction: then use does not rise, and no limit is exceeded, whatever others do.
    """
    if use.everything is None:
        return NOBODY
    freed: dict[str, int] = {}
    freed_in: dict[int, int] = {}
    ended = 0
    for run_pk, task in ending:
        ended += 1
        freed[task.pool] = freed.get(task.pool, 0) + task.pool_slots
        freed_in[run_pk] = freed_in.get(run_pk, 0) + 1
    total = free(use.everything.slots, use.everything.used - ended)
    in_pools = {name: free(one.slots, one.used - freed.get(name, 0)) for name, one in use.pools.items()}
    if not counted:
        total = min(total, ended)  # of no limit, too: it stays below 0
        in_pools = {name: min(left, freed.get(name, 0)) for name, left in in_pools.items()}
    return admit(
        [Candidate(key=one.key, run_pk=one.run_pk, pool=one.pool, pool_slots=one.pool_slots) for one in ready],
        Room(
            total=slots if total < 0 else min(slots, total),
            runs={
                key: max(0, graphs[key].dag.max_active_tasks - one.active + freed_in.get(key, 0))
                for key, one in use.runs.items()
            },
            pools=in_pools,
        ),
    )
