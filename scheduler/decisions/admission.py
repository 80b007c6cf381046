"""Which of the tasks that are ready get a slot now: limits of run, pool and installation, by priority."""

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

UNLIMITED = -1


@frozen(kw_only=True)
class Candidate:
    """A scheduled task instance, as the admission sees it. Candidates come in order of priority."""

    key: int
    run_pk: int
    pool: str
    pool_slots: int


@frozen(kw_only=True)
class Room:
    """What is free, counted under the locks of the owners of these limits."""

    total: int
    runs: Mapping[int, int]
    """Free instances by run; a run that is absent may not be given anything now."""
    pools: Mapping[str, int]
    """Free slots by pool, UNLIMITED for no limit; an unknown pool is absent and admits nothing."""


@frozen(kw_only=True)
class Admission:
    """The keys admitted, in order, and the runs and pools that are full now."""

    admitted: tuple[int, ...]
    full_runs: frozenset[int]
    full_pools: frozenset[str]


def admit(candidates: Iterable[Candidate], room: Room) -> Admission:
    """Give slots to candidates in their order. A blocked candidate blocks no other."""
    total = room.total
    runs = dict(room.runs)
    pools = dict(room.pools)
    admitted: list[int] = []
    for one in candidates:
        if total <= 0:
            break
        in_run = runs.get(one.run_pk, 0)
        in_pool = pools.get(one.pool, 0)
        if in_run <= 0 or (in_pool != UNLIMITED and in_pool < one.pool_slots):
            continue
        total -= 1
        runs[one.run_pk] = in_run - 1
        if in_pool != UNLIMITED:
            pools[one.pool] = in_pool - one.pool_slots
        admitted.append(one.key)
    return Admission(
        admitted=tuple(admitted),
        full_runs=frozenset(key for key, free in runs.items() if free <= 0),
        full_pools=frozenset(name for name, free in pools.items() if free == 0),
    )


def free(limit: int, used: int) -> int:
    """What is left of a limit; never negative, since lowering a limit stops nothing that runs."""
    return UNLIMITED if limit == UNLIMITED else max(0, limit - used)


def in_order(candidates: Sequence[Candidate], keys: Iterable[int]) -> list[Candidate]:
    """Those of `candidates` whose key is in `keys`, order kept."""
    wanted = set(keys)
    return [one for one in candidates if one.key in wanted]
