"""What must be true of the committed rows, in whatever order writers ran; and running everything to its end."""

from datetime import timedelta

from scheduler.commands.pause import pause_dag
from scheduler.model import Outcome, OutcomeKind, StartRequest
from scheduler.procedures.claiming import Look
from scheduler.procedures.placement import Capacity
from scheduler.routines.enqueue_tasks import admit_scheduled
from scheduler.routines.record_outcomes import end_attempts
from scheduler.routines.rescue import rescue_lost, rescue_stuck
from scheduler.routines.schedule_tasks import judge_runs
from scheduler.routines.start_attempts import start_claimed
from scheduler.routines.start_runs import start_queued_runs
from tests.interleavings.scenes import LIVE
from tests.interleavings.theatre import Daemon, Theatre

PROMISES: dict[str, str] = {
    "more runs of a dag run than max_active_runs allows": (
        "SELECT d.dag_id, count(*) FROM dag d JOIN dag_run r ON r.dag_pk = d.id AND r.state = 'running'"
        " GROUP BY d.id HAVING count(*) > d.max_active_runs"
    ),
    "more tasks of a run are active than max_active_tasks allows": (
        "SELECT r.run_id, count(*) FROM dag_run r JOIN dag_version v ON v.id = r.version_id"
        " JOIN task_instance ti ON ti.run_pk = r.id AND ti.state IN ('queued', 'running', 'restarting')"
        " GROUP BY r.id, v.id HAVING count(*) > coalesce((v.document::jsonb ->> 'max_active_tasks')::integer, 16)"
    ),
    "a pool gave more slots than it has": (
        "SELECT p.name, p.slots, sum(ti.pool_slots) FROM pool p JOIN task_instance ti ON ti.pool = p.name"
        " AND ti.state IN ('queued', 'running', 'restarting') WHERE p.slots >= 0 GROUP BY p.id"
        " HAVING sum(ti.pool_slots) > p.slots"
    ),
    "more tasks are active than the installation allows": (
        "SELECT p.slots, n FROM pool p,"
        " (SELECT count(*) AS n FROM task_instance WHERE state IN ('queued', 'running', 'restarting')) c"
        " WHERE p.name = '*' AND p.slots >= 0 AND n > p.slots"
    ),
    "two runs of a dag have one logical date": (
        "SELECT dag_pk, logical_date FROM dag_run WHERE logical_date IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1"
    ),
    "a slot before the pointer has no run": (
        "SELECT d.dag_id, s FROM dag d JOIN dag_version v ON v.id = d.version_id, LATERAL generate_series("
        " (SELECT min(r.logical_date) FROM dag_run r WHERE r.dag_pk = d.id AND r.run_type = 'scheduled'),"
        " d.cursor, interval '1 hour') s WHERE d.dag_id = 'clock' AND NOT EXISTS"
        " (SELECT FROM dag_run r WHERE r.dag_pk = d.id AND r.run_after = s)"
    ),
    "a try has two accepted attempts": (
        "SELECT ti_id, try_number FROM attempt WHERE state IN ('success', 'failed', 'skipped')"
        " GROUP BY 1, 2 HAVING count(*) > 1"
    ),
    "an instance and its attempt do not agree": (
        "SELECT ti.id, ti.state, a.state FROM task_instance ti JOIN attempt a ON a.token = ti.token"
        " WHERE a.ti_id <> ti.id OR a.state <> replace(ti.state, 'restarting', 'running')"
    ),
    "an attempt lives without its instance": (
        "SELECT a.token, a.state, ti.state FROM attempt a LEFT JOIN task_instance ti ON ti.token = a.token"
        " WHERE a.state IN ('queued', 'running') AND ti.id IS NULL"
    ),
    "a finished run has tasks under way": (
        "SELECT r.run_id, ti.task_id, ti.state FROM dag_run r JOIN task_instance ti ON ti.run_pk = r.id"
        " WHERE r.state IN ('success', 'failed')"
        " AND ti.state IN ('none', 'scheduled', 'queued', 'running', 'restarting', 'up_for_retry')"
    ),
    "a run is without all its instances": (
        "SELECT r.run_id FROM dag_run r JOIN dag_version v ON v.id = r.version_id"
        " WHERE (SELECT count(*) FROM task_instance ti WHERE ti.run_pk = r.id)"
        " <> jsonb_array_length(v.document::jsonb -> 'tasks')"
    ),
    "a result of a task that did not succeed": (
        "SELECT x.ti_id FROM xcom x WHERE NOT EXISTS"
        " (SELECT FROM attempt a WHERE a.ti_id = x.ti_id AND a.state = 'success')"
    ),
    "an attempt of a cleared or marked task was heard": (
        "SELECT token FROM attempt WHERE state = 'revoked' AND report IS NOT NULL"
    ),
    "a cleared or marked attempt was not asked to end": (
        "SELECT a.token FROM attempt a JOIN task_instance ti ON ti.token = a.token"
        " WHERE (ti.state = 'restarting' OR ti.imposed IS NOT NULL) AND a.cancel_requested_at IS NULL"
    ),
    "a run that begins again keeps its old limit of time": (
        "SELECT r.run_id FROM dag_run r JOIN event e ON e.run_pk = r.id AND e.kind = 'timeout' WHERE r.state = 'queued'"
    ),
    "a queued run keeps something of its earlier life": (
        "SELECT run_id FROM dag_run WHERE state = 'queued' AND (verdict IS NOT NULL OR start_date IS NOT NULL)"
    ),
    "more tries than the retries allow": ("SELECT ti.id FROM task_instance ti WHERE ti.try_number > ti.max_tries + 1"),
    "something was lost with its run": (
        "SELECT ti.id FROM task_instance ti LEFT JOIN dag_run r ON r.id = ti.run_pk WHERE r.id IS NULL"
    ),
    "a running run has nothing that would ever move it": (
        "SELECT r.run_id FROM dag_run r JOIN dag d ON d.id = r.dag_pk WHERE r.state = 'running' AND NOT d.is_paused"
        " AND NOT EXISTS (SELECT FROM event e WHERE e.run_pk = r.id AND e.kind <> 'timeout') AND NOT EXISTS"
        " (SELECT FROM task_instance ti WHERE ti.run_pk = r.id"
        " AND ti.state IN ('scheduled', 'queued', 'running', 'restarting'))"
    ),
    "a task ended, and neither an event nor the run knows": (
        # of a paused dag: unpausing it has its runs judged as a whole
        "SELECT ti.id FROM task_instance ti JOIN dag_run r ON r.id = ti.run_pk JOIN dag d ON d.id = r.dag_pk"
        " WHERE ti.state = 'up_for_retry' AND NOT d.is_paused"
        " AND NOT EXISTS (SELECT FROM event e WHERE e.ti_id = ti.id)"
        " AND NOT EXISTS (SELECT FROM event e WHERE e.run_pk = ti.run_pk AND e.kind = 'run')"
    ),
}
"""What is wrong -> a statement that returns rows where it is."""

_ALL = " UNION ALL ".join(
    f"SELECT '{what}' AS what, to_jsonb(x)::text AS row FROM ({sql}) x" for what, sql in PROMISES.items()
)


class PromiseBroken(AssertionError):
    """The committed rows are not as promised."""


async def check(theatre: Theatre) -> None:
    """Raises PromiseBroken."""
    wrong = await theatre.rows(_ALL)
    if wrong:
        told = [f"{row['what']}: {row['row']}" for row in wrong]
        raise PromiseBroken("\n".join([*told, *theatre.stage.told()]))


async def drain(theatre: Theatre, daemon: Daemon) -> None:
    """Run everything to its end: whatever was left is rescued, judged, started and ended. Raises PromiseBroken.

    Afterwards no run is unfinished. No run is timed out or judged as a whole without cause: what ends it must be the
    events that are there, so one that was lost is missed.
    """
    store, graphs = daemon.store, daemon.graphs
    for row in await theatre.rows("SELECT dag_id FROM dag WHERE is_paused ORDER BY dag_id"):
        # as an operator does it: what was said of its runs meanwhile has been consumed, so they are judged as a whole
        await store.transact(pause_dag, row["dag_id"], False)
    await theatre.monitor.execute(
        # no more runs than there are, all at once; who dropped a pool that is still named makes it again
        "UPDATE dag SET next_due = NULL, is_continuous = false, max_active_runs = 100;"
        " UPDATE pool SET slots = 100 WHERE slots < 100 AND slots >= 0;"
        " INSERT INTO pool (name, slots) SELECT DISTINCT pool, 100 FROM task_instance ON CONFLICT DO NOTHING"
    )
    theatre.later(seconds=200)
    await theatre.monitor.execute(
        "UPDATE seat SET lease_until = $1 WHERE kind = 'worker'", theatre.now - timedelta(seconds=50)
    )
    await store.transact(rescue_stuck, graphs, [], 100)
    await store.transact(rescue_lost, graphs, 100)
    for _ in range(60):
        if not await theatre.rows("SELECT 1 FROM dag_run WHERE state IN ('queued', 'running') LIMIT 1"):
            break
        theatre.later(seconds=30)
        await store.transact(start_queued_runs, graphs, 100)
        while True:
            judged = await store.transact(judge_runs, graphs, daemon.pictures, 100)
            if judged.stale:
                daemon.pictures.clear()
                continue
            daemon.pictures.keep(judged.pictures, finished=judged.finished)
            if not judged.pictures and not judged.finished:
                break
        admitted = await store.transact(
            admit_scheduled, graphs, daemon.pictures, Capacity(where=daemon.place, slots=100), Look()
        )
        tokens = [one.token for one in admitted.placed.workloads]
        if tokens:
            requests = [StartRequest(token=token, worker_id=LIVE, pid=1, hostname="h") for token in tokens]
            answers = await store.transact(start_claimed, graphs, requests)
            assert all(answer.accepted for answer in answers), "nobody else is there"
            reports = [Outcome(token=token, kind=OutcomeKind.SUCCESS, result="1") for token in tokens]
            await store.transact(end_attempts, graphs, reports)
    await check(theatre)
    left = await theatre.rows(
        "SELECT r.run_id, r.state, r.verdict, (SELECT json_agg(ti.task_id || ' ' || ti.state) FROM task_instance ti"
        " WHERE ti.run_pk = r.id) AS tasks FROM dag_run r WHERE r.state IN ('queued', 'running')"
    )
    if left:
        told = [f"this run never ends: {row}" for row in left]
        raise PromiseBroken("\n".join([*told, *theatre.stage.told()]))
