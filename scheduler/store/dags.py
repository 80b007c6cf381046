"""DAG files, dags and their versions: stored when loaded, claimed when due, paused."""

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
from attrs import frozen

from scheduler.model import Dag, ScheduleKind
from scheduler.store import tables as t
from scheduler.store.locks import Lock, Wait, by_key, keys_param, locking
from scheduler.store.writer import Reading, Row, Transaction

LOCK_FILES = locking(
    Lock.DAG_FILE,
    t.dag_file.c.path == sa.any_(sa.bindparam("paths", type_=sa.ARRAY(sa.Text))),
    wait=Wait.WAIT,
)
LOCK_OF_FILE = locking(
    Lock.DAG,
    sa.or_(
        t.dag.c.dag_id == sa.any_(sa.bindparam("dag_ids", type_=sa.ARRAY(sa.Text))),
        t.dag.c.file == sa.any_(sa.bindparam("paths", type_=sa.ARRAY(sa.Text))),
    ),
    wait=Wait.WAIT,
)
LOCK_DAG_ID = locking(Lock.DAG, t.dag.c.dag_id == sa.bindparam("dag_id"), wait=Wait.WAIT)
CLAIM = by_key(Lock.DAG, wait=Wait.SKIP)

_unfinished = (
    sa.select(sa.func.count())
    .select_from(t.dag_run)
    .where(t.dag_run.c.dag_pk == t.dag.c.id, t.dag_run.c.state.in_(["queued", "running"]))
    .correlate(t.dag)
    .scalar_subquery()
)
CLAIM_DUE = locking(
    Lock.DAG,
    sa.and_(
        t.dag.c.is_present,
        sa.not_(t.dag.c.is_paused),
        sa.or_(
            sa.and_(
                t.dag.c.next_due <= sa.bindparam("now", type_=sa.DateTime(timezone=True)),
                # a dag that is full comes back when one of its runs has finished
                _unfinished < t.dag.c.max_active_runs,
            ),
            sa.and_(t.dag.c.is_continuous, _unfinished == 0),
        ),
    ),
    wait=Wait.SKIP,
    limit=True,
)

# --- files --------------------------------------------------------------------------------------------------

_INSERT_FILE = sa.text(
    "INSERT INTO dag_file (path, source_hash, error_line, error_message, error_at, loaded_at)"
    " VALUES (:path, :source_hash, :line, :message,"
    " CASE WHEN CAST(:message AS text) IS NOT NULL THEN CAST(:now AS timestamptz) END, :now)"
    " ON CONFLICT DO NOTHING RETURNING id"
)
_UPDATE_FILE = sa.text(
    "UPDATE dag_file SET source_hash = :source_hash, error_line = :line, error_message = :message,"
    " error_at = CASE WHEN CAST(:message AS text) IS NOT NULL THEN CAST(:now AS timestamptz) END, loaded_at = :now"
    " WHERE id = ANY(:keys)"
)


async def note_file(
    tx: Transaction,
    keys: Sequence[int],
    *,
    path: str,
    source_hash: str | None,
    line: int | None,
    message: str | None,
) -> None:
    """Remember how loading a file went; `keys` holds its row if there is one."""
    parameters = {
        "now": tx.now,
        "keys": list(keys),
        "path": path,
        "source_hash": source_hash,
        "line": line,
        "message": message,
    }
    if keys:
        await tx.write(Lock.DAG_FILE, keys, _UPDATE_FILE, parameters)
    else:
        await tx.insert(Lock.DAG_FILE, _INSERT_FILE, parameters)


# --- dags and versions --------------------------------------------------------------------------------------

_PRESENT = sa.text(
    "SELECT d.id, d.dag_id, d.file, d.is_present, d.schedule, v.hash, v.number, v.id AS version_id"
    " FROM dag d LEFT JOIN dag_version v ON v.id = d.version_id WHERE d.id = ANY(:keys)"
)
_INSERT_DAG = sa.text(
    "INSERT INTO dag (dag_id, file, is_paused, schedule, max_active_runs, is_continuous)"
    " SELECT v.dag_id, :file, v.paused, '', 1, false"
    " FROM unnest(CAST(:dag_ids AS text[]), CAST(:paused AS boolean[])) WITH ORDINALITY AS v(dag_id, paused, n)"
    " ORDER BY v.n ON CONFLICT DO NOTHING RETURNING id, dag_id"
)
_INSERT_VERSION = sa.text(
    "INSERT INTO dag_version (dag_pk, number, hash, document, source, source_hash)"
    " SELECT v.dag_pk, v.number, v.hash, v.document, :source, :source_hash"
    " FROM unnest(CAST(:dag_pks AS bigint[]), CAST(:numbers AS integer[]), CAST(:hashes AS text[]),"
    " CAST(:documents AS text[])) AS v(dag_pk, number, hash, document) RETURNING id, dag_pk"
)
_POINT = sa.text(
    "UPDATE dag d SET file = :file, is_present = true, version_id = v.version_id, schedule = v.schedule,"
    " max_active_runs = v.max_active_runs, is_continuous = v.is_continuous,"
    # create_runs computes the next slot; all that loading says is: look at it now
    " next_due = CAST(:now AS timestamptz)"
    " FROM unnest(CAST(:keys AS bigint[]), CAST(:versions AS bigint[]), CAST(:schedules AS text[]),"
    " CAST(:runs AS integer[]), CAST(:continuous AS boolean[]))"
    " AS v(id, version_id, schedule, max_active_runs, is_continuous) WHERE d.id = v.id"
)
_HIDE = sa.text("UPDATE dag SET is_present = false, next_due = NULL WHERE id = ANY(:keys)")


@frozen(kw_only=True)
class Version:
    """A dag as loaded, with its canonical document and the hash of document and source."""

    dag: Dag
    document: str
    hash: str


async def present(tx: Reading, keys: Collection[int]) -> Sequence[Row]:
    """Dags with the number and hash of their current version."""
    return await tx.fetch(_PRESENT, {"keys": sorted(keys)})


async def add(tx: Transaction, dags: Collection[Dag], *, file: str) -> dict[str, int]:
    """Insert dags nobody has seen before; return their keys. One that came up meanwhile is left out."""
    ordered = sorted(dags, key=lambda dag: dag.dag_id)
    parameters = {
        "file": file,
        "dag_ids": [dag.dag_id for dag in ordered],
        "paused": [dag.paused_upon_creation for dag in ordered],
    }
    rows = await tx.insert(Lock.DAG, _INSERT_DAG, parameters)
    return {row["dag_id"]: row["id"] for row in rows}


async def add_versions(
    tx: Transaction, versions: Sequence[tuple[int, int, Version]], *, source: str, source_hash: str
) -> dict[int, int]:
    """Store new versions, given as (dag key, number, version); return version keys by dag key."""
    parameters = {
        "source": source,
        "source_hash": source_hash,
        "dag_pks": [dag_pk for dag_pk, _, _ in versions],
        "numbers": [number for _, number, _ in versions],
        "hashes": [version.hash for *_, version in versions],
        "documents": [version.document for *_, version in versions],
    }
    owners = [dag_pk for dag_pk, _, _ in versions]
    rows = await tx.write_satellite(t.dag_version, owners, _INSERT_VERSION, parameters)
    return {row["dag_pk"]: row["id"] for row in rows}


async def point(tx: Transaction, pointed: Sequence[tuple[int, int, Dag]], *, file: str) -> None:
    """Make (dag key, version key, dag) the current versions, and have create_runs look at these dags."""
    keys = [dag_pk for dag_pk, _, _ in pointed]
    parameters = {
        "now": tx.now,
        "file": file,
        "keys": keys,
        "versions": [version_id for _, version_id, _ in pointed],
        "schedules": [dag.schedule.text for *_, dag in pointed],
        "runs": [dag.max_active_runs for *_, dag in pointed],
        "continuous": [dag.schedule.kind is ScheduleKind.CONTINUOUS for *_, dag in pointed],
    }
    await tx.write(Lock.DAG, keys, _POINT, parameters)


async def hide(tx: Transaction, keys: Collection[int]) -> None:
    """Dags whose file no longer has them: no new runs; the present ones go on."""
    if keys:
        await tx.write(Lock.DAG, keys, _HIDE, {"keys": sorted(keys)})


# --- creation -----------------------------------------------------------------------------------------------

_DUE = sa.text(
    "SELECT d.id, d.dag_id, d.version_id, d.cursor, d.created_at, d.is_paused, d.is_present, d.next_due,"
    " CASE WHEN d.is_continuous THEN"
    # a range, not an equality: then only the index on (dag_pk, id) has this order, and a dag without runs does not
    # make the planner walk through everybody's
    "  (SELECT r.end_date FROM dag_run r WHERE r.dag_pk BETWEEN d.id AND d.id"
    "   ORDER BY r.dag_pk DESC, r.id DESC LIMIT 1) END AS last_end"
    " FROM dag d WHERE d.id = ANY(:keys) ORDER BY d.id"
)
_MOVE = sa.text(
    "UPDATE dag d SET cursor = v.cursor, next_due = v.next_due"
    " FROM unnest(CAST(:keys AS bigint[]), CAST(:cursors AS timestamptz[]), CAST(:dues AS timestamptz[]))"
    " AS v(id, cursor, next_due) WHERE d.id = v.id"
)
_NEXT_DUE = sa.text(
    "SELECT (SELECT min(next_due) FROM dag WHERE is_present AND NOT is_paused AND next_due > :now) AS due,"
    " EXISTS (SELECT FROM dag WHERE is_present AND NOT is_paused AND next_due <= :now)"
    " OR EXISTS (SELECT FROM dag WHERE is_continuous AND is_present AND NOT is_paused) AS waits"
)


async def due(tx: Reading, keys: Collection[int]) -> Sequence[Row]:
    """What planning slots needs of held dags."""
    return await tx.fetch(_DUE, {"keys": sorted(keys)})


async def move_pointers(tx: Transaction, pointers: Sequence[tuple[int, datetime | None, datetime | None]]) -> None:
    """Set (dag key, cursor, next_due): only this marks slots as handled."""
    keys = [key for key, _, _ in pointers]
    parameters = {
        "keys": keys,
        "cursors": [cursor for _, cursor, _ in pointers],
        "dues": [next_due for *_, next_due in pointers],
    }
    await tx.write(Lock.DAG, keys, _MOVE, parameters)


async def next_due(tx: Reading) -> tuple[datetime | None, bool]:
    """When the next slot of any dag is due; does a dag wait for the end of a run: due already, or continuous?"""
    (row,) = await tx.fetch(_NEXT_DUE, {"now": tx.now})
    return row["due"], row["waits"]


# --- pause --------------------------------------------------------------------------------------------------

_PAUSE = sa.text(
    "UPDATE dag SET is_paused = :paused, next_due = CASE WHEN :paused THEN next_due ELSE CAST(:now AS timestamptz) END"
    " WHERE id = ANY(:keys)"
)
_RUNNING = sa.select(t.dag_run.c.id).where(t.dag_run.c.dag_pk == sa.any_(keys_param()), t.dag_run.c.state == "running")


async def pause(tx: Transaction, keys: Collection[int], *, paused: bool) -> None:
    """Pause or go on."""
    await tx.write(Lock.DAG, keys, _PAUSE, {"keys": sorted(keys), "paused": paused, "now": tx.now})


async def running_runs(tx: Reading, keys: Collection[int]) -> list[int]:
    """Keys of the running runs of these dags."""
    return [row["id"] for row in await tx.fetch(_RUNNING, {"keys": sorted(keys)})]


_SOURCE = sa.text("SELECT source FROM dag_version WHERE source_hash = :source_hash LIMIT 1")


async def source_of(tx: Reading, source_hash: str) -> str | None:
    """The text of a pinned DAG file."""
    rows = await tx.fetch(_SOURCE, {"source_hash": source_hash})
    return rows[0]["source"] if rows else None


_CLEAR = sa.text(
    "UPDATE dag_file SET error_line = NULL, error_message = NULL, error_at = NULL, source_hash = NULL"
    " WHERE id = ANY(:keys)"
)
_FILES = sa.text(
    "SELECT path FROM dag_file WHERE source_hash IS NOT NULL OR error_message IS NOT NULL"
    " UNION SELECT file FROM dag WHERE is_present"
)


async def clear_files(tx: Transaction, keys: Collection[int]) -> None:
    """Files that are gone have no errors."""
    if keys:
        await tx.write(Lock.DAG_FILE, keys, _CLEAR, {"keys": sorted(keys)})


async def known_files(tx: Reading) -> list[str]:
    """Paths of files that were there when last looked at."""
    return [row["path"] for row in await tx.fetch(_FILES)]


_CURRENT = sa.text(
    "SELECT d.file, v.source_hash, max(r.id) AS last_run FROM dag d JOIN dag_version v ON v.id = d.version_id"
    " LEFT JOIN LATERAL (SELECT id FROM dag_run WHERE dag_pk BETWEEN d.id AND d.id"
    " ORDER BY dag_pk DESC, id DESC LIMIT 1) r ON true"
    " WHERE d.is_present AND NOT d.is_paused GROUP BY 1, 2 ORDER BY last_run DESC NULLS LAST, 1 LIMIT :at_most"
)


async def files_in_use(tx: Reading, at_most: int) -> list[tuple[str, str]]:
    """(file, source hash) of unpaused dags, the most recently run first."""
    rows = await tx.fetch(_CURRENT, {"at_most": at_most})
    return [(row["file"], row["source_hash"]) for row in rows]
