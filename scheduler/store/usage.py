"""How much of each limit is in use: read in one statement, after the owners of the limits have been locked.

Or without them, by a transaction that takes no more than it gives back: it cannot exceed a limit, whatever others do.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from scheduler.store import tasks
from scheduler.store.pools import EVERYTHING
from scheduler.store.writer import Reading, Row

_RUNS = (
    "SELECT r.id AS run_pk, CAST(NULL AS text) AS pool, r.seq, 0 AS slots,"
    " (SELECT count(*) FROM task_instance a WHERE a.run_pk = r.id AND a.state IN ('queued', 'running', 'restarting'))"
    " AS used,"
    " d.is_paused OR EXISTS"
    " (SELECT FROM event e WHERE e.run_pk = r.id AND e.due_at <= :now AND e.kind <> 'timeout') AS flag"
    " FROM dag_run r JOIN dag d ON d.id = r.dag_pk"
    " WHERE r.id = ANY(:runs) AND r.state = 'running' AND r.verdict IS NULL"
)
# What is active is read once: while an old snapshot is held the index keeps an entry of everything that has been.
_ACTIVE = (
    "WITH active AS MATERIALIZED (SELECT pool, sum(pool_slots) AS slots, count(*) AS n FROM task_instance"
    " WHERE state IN ('queued', 'running', 'restarting') GROUP BY pool) "
)
_POOLS = (
    " UNION ALL SELECT NULL, p.name, 0, p.slots, coalesce(u.slots, 0), false"
    " FROM pool p LEFT JOIN active u ON u.pool = p.name WHERE p.name = ANY(:pools)"
    " UNION ALL SELECT NULL, '*', 0, p.slots, (SELECT coalesce(sum(n), 0) FROM active),"
    " EXISTS (SELECT FROM task_instance WHERE state = 'scheduled') FROM pool p WHERE p.name = '*'"
)
# Instances in the same rows: what is of the others is NULL in each.
_EMPTY = (
    "CAST(NULL AS bigint) AS id, CAST(NULL AS bigint) AS ti_run_pk, CAST(NULL AS integer) AS task_index,"
    " CAST(NULL AS text) AS task_id, CAST(NULL AS text) AS state, CAST(NULL AS integer) AS map_index,"
    " CAST(NULL AS integer) AS try_number, CAST(NULL AS integer) AS max_tries, CAST(NULL AS integer) AS losses,"
    " CAST(NULL AS uuid) AS token, CAST(NULL AS text) AS imposed, CAST(NULL AS text) AS attempt_state,"
    " CAST(NULL AS text) AS report, CAST(NULL AS timestamptz) AS cancel_requested_at"
)


_BOTH = (
    "SELECT u.*, {empty} FROM ({limits}) AS u"
    " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, h.* FROM ({held}) AS h"
)
_OF_RUNS = sa.text(_RUNS)
_OF_RUNS_AND_POOLS = sa.text(_ACTIVE + _RUNS + _POOLS)
_OF_RUNS_AND_INSTANCES = sa.text(_BOTH.format(empty=_EMPTY, limits=_RUNS, held=tasks.HELD))
_OF_ALL = sa.text(_ACTIVE + _BOTH.format(empty=_EMPTY, limits=_RUNS + _POOLS, held=tasks.HELD))


@frozen(kw_only=True)
class RunUse:
    """A running run without a verdict."""

    seq: int
    active: int
    """How many of its instances have an attempt."""
    hindered: bool
    """Its dag is paused, or events wait to be judged: it goes the long way."""


@frozen(kw_only=True)
class PoolUse:
    """Slots of a pool, -1 for no limit, and how many are taken."""

    slots: int
    used: int


@frozen(kw_only=True)
class Usage:
    """What was asked for and exists."""

    runs: Mapping[int, RunUse]
    pools: Mapping[str, PoolUse]
    everything: PoolUse | None
    """The limit of the installation; None if pools were not asked for."""
    somebody_waits: bool
    """Some instance is scheduled and has no slot."""


async def in_use(tx: Reading, runs: Collection[int], pools: Collection[str] = ()) -> Usage:
    """Use of these runs, and with `pools` of these pools and of the whole installation.

    Runs that are not running, or have a verdict, are left out; so are pools that do not exist.
    """
    return _usage(await tx.fetch(_OF_RUNS_AND_POOLS if pools else _OF_RUNS, _parameters(tx, runs, pools)))


async def in_use_and_held(
    tx: Reading, runs: Collection[int], pools: Collection[str], instances: Collection[int]
) -> tuple[Usage, dict[int, Row]]:
    """`in_use`, and `tasks.held` of these instances, in one statement."""
    parameters = _parameters(tx, runs, pools) | {"keys": sorted(instances)}
    rows = await tx.fetch(_OF_ALL if pools else _OF_RUNS_AND_INSTANCES, parameters)
    return _usage([row for row in rows if row["id"] is None]), {row["id"]: row for row in rows if row["id"] is not None}


def _parameters(tx: Reading, runs: Collection[int], pools: Collection[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"now": tx.now, "runs": sorted(runs)}
    if pools:
        parameters["pools"] = sorted(set(pools) - {EVERYTHING})
    return parameters


def _usage(rows: Iterable[Row]) -> Usage:
    found_runs: dict[int, RunUse] = {}
    found_pools: dict[str, PoolUse] = {}
    everything = None
    waits = False
    for row in rows:
        if row["run_pk"] is not None:
            found_runs[row["run_pk"]] = RunUse(seq=row["seq"], active=row["used"], hindered=row["flag"])
            continue
        use = PoolUse(slots=row["slots"], used=int(row["used"]))
        if row["pool"] == EVERYTHING:
            everything, waits = use, row["flag"]
        else:
            found_pools[row["pool"]] = use
    return Usage(runs=found_runs, pools=found_pools, everything=everything, somebody_waits=waits)
