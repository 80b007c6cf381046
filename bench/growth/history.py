"""A history of finished runs, made by SQL: as many rows as years of work would have left, in a minute or two.

Half of the runs belong to the dag that is measured, the rest to dags that are gone. Every 33rd run has failed; every
20th instance was tried twice; every third left a result.
"""

import asyncio

import asyncpg

from bench.server import Server

DAYS = 80
"""How far back it goes: younger than what the scheduler deletes."""
OTHERS = 50
TASKS = 10
"""Instances of each run."""

_OTHER_DAGS = """
WITH made AS (
  INSERT INTO dag (dag_id, file, is_present, schedule, max_active_runs)
  SELECT 'gone_' || n, 'gone.py', false, '@hourly', 16 FROM generate_series(1, $1::int) AS n RETURNING id),
version AS (
  INSERT INTO dag_version (dag_pk, number, hash, document, source, source_hash)
  SELECT made.id, 1, md5(made.id::text), v.document, v.source, v.source_hash
  FROM made CROSS JOIN (
    SELECT v.* FROM dag_version v JOIN dag d ON d.version_id = v.id WHERE d.dag_id = $2) AS v
  RETURNING id, dag_pk)
SELECT id, dag_pk FROM version
"""
_POINT = "UPDATE dag SET version_id = v.id FROM dag_version v WHERE v.dag_pk = dag.id AND dag.version_id IS NULL"

# Runs in the order of time: of the measured dag and of one of the others in turn.
_RUNS = """
INSERT INTO dag_run (dag_pk, version_id, run_id, run_type, state, logical_date, data_interval_start,
  data_interval_end, run_after, queued_at, start_date, end_date, seq)
SELECT d.id, d.version_id, 'scheduled__' || to_char(t.at, 'YYYY-MM-DD"T"HH24:MI:SS.US'), 'scheduled',
  CASE WHEN n % 33 = 0 THEN 'failed' ELSE 'success' END, t.at, t.at, t.at, t.at, t.at, t.at,
  t.at + interval '8 seconds', 12
FROM generate_series(1, $1::int) AS n
CROSS JOIN LATERAL (SELECT now() - make_interval(days => $2) * (1 - n / ($1 + 1.0)) - interval '1 hour' AS at) AS t
JOIN (SELECT id, version_id, row_number() OVER (ORDER BY dag_id <> $3, id) - 1 AS place
      FROM dag WHERE dag_id = $3 OR file = 'gone.py') AS d
  ON d.place = CASE WHEN n % 2 = 0 THEN 0 ELSE 1 + (n / 2) % $4 END
ORDER BY n
"""
_INSTANCES = """
INSERT INTO task_instance (run_pk, task_id, task_index, state, try_number, max_tries, pool, pool_slots, priority,
  ready_order, start_date, end_date)
SELECT r.id, 't' || i, i,
  CASE WHEN r.state = 'failed' AND i = 8 THEN 'failed' WHEN r.state = 'failed' AND i = 9 THEN 'upstream_failed'
       ELSE 'success' END,
  CASE WHEN (r.id * 10 + i) % 20 = 0 THEN 2 ELSE 1 END, 2, 'default_pool', 1, 1, r.logical_date,
  r.start_date + make_interval(secs => i * 0.8), r.start_date + make_interval(secs => i * 0.8 + 0.7)
FROM dag_run r CROSS JOIN generate_series(0, $1::int - 1) AS i
WHERE r.id > $2
ORDER BY r.id, i
"""
_ATTEMPTS = """
INSERT INTO attempt (token, ti_id, try_number, state, daemon, worker, hostname, pid, queued_at, started_at, ended_at,
  exit_code, reason, report, log_path)
SELECT gen_random_uuid(), ti.id, try,
  CASE WHEN try < ti.try_number OR ti.state = 'failed' THEN 'failed' ELSE 'success' END,
  w.daemon, w.worker, 'bench', 4242, ti.start_date, ti.start_date, ti.end_date, 0, '', md5(ti.id::text),
  '/var/lib/asyncsched/logs/' || ti.run_pk || '/' || ti.id || '-' || try || '.log'
FROM task_instance ti CROSS JOIN LATERAL generate_series(1, ti.try_number) AS try
CROSS JOIN (SELECT gen_random_uuid() AS daemon, gen_random_uuid() AS worker) AS w
WHERE ti.run_pk > $1 AND ti.state IN ('success', 'failed')
ORDER BY ti.id
"""
_RESULTS = """
INSERT INTO xcom (ti_id, key, value)
SELECT id, 'return_value', '{"rows": ' || id || ', "path": "/data/' || md5(id::text) || '"}'
FROM task_instance WHERE run_pk > $1 AND id % 3 = 0 AND state = 'success' ORDER BY id
"""


async def fill(address: str, instances: int, *, dag_id: str) -> int:
    """Leave so many finished instances in the migrated database at `address`, where `dag_id` is loaded.

    `address` names a superuser: foreign keys are not checked while it fills. Returns the number of runs.
    """
    runs = instances // TASKS
    if not runs:
        return 0
    connection = await asyncpg.connect(address)
    try:
        await connection.execute("SET session_replication_role = replica")  # every row refers to one just made
        await connection.execute("SET synchronous_commit = off")
        async with connection.transaction():
            await connection.fetch(_OTHER_DAGS, OTHERS, dag_id)
            await connection.execute(_POINT)
            newest = await connection.fetchval("SELECT coalesce(max(id), 0) FROM dag_run")
            await connection.execute(_RUNS, runs, DAYS, dag_id, OTHERS)
            await connection.execute(_INSTANCES, TASKS, newest)
            await connection.execute(_ATTEMPTS, newest)
            await connection.execute(_RESULTS, newest)
        # as autovacuum leaves a database that has not been filled at once
        await connection.execute("VACUUM (FREEZE, ANALYZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return runs


def make(server: Server, database: str, instances: int, *, dag_id: str) -> int:
    """The same for a database of this server, by name."""
    return asyncio.run(fill(server.as_superuser(server.database(database)), instances, dag_id=dag_id))
