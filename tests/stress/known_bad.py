"""Writers that are known to be wrong, each beside its cure. A check that does not find them proves nothing.

Most come from public reports. They run on tables of their own, by raw connections: nothing here is ours but the
machine that plays them (`stage.py`).
"""

from attrs import frozen

from tests.stress.stage import Script

TABLES = """
DROP TABLE IF EXISTS note, reschedule, strict_child, loose, tally, deferred, item, ti, run;
CREATE UNLOGGED TABLE run (
  id integer PRIMARY KEY, dag text, key text, state text DEFAULT 'running', n integer DEFAULT 0);
CREATE UNLOGGED TABLE ti (
  id integer PRIMARY KEY, run integer REFERENCES run, place integer, dag text DEFAULT 'd', key text DEFAULT 'r',
  state text DEFAULT 'running', token integer DEFAULT 1, n integer DEFAULT 0, pad text DEFAULT repeat('x', 50));
CREATE INDEX ti_dag_run ON ti (dag, key, place);
CREATE UNLOGGED TABLE reschedule (id integer GENERATED ALWAYS AS IDENTITY, run integer REFERENCES run, ti integer);
CREATE UNLOGGED TABLE note (id integer GENERATED ALWAYS AS IDENTITY, run integer REFERENCES run, text text);
CREATE UNLOGGED TABLE loose (id integer GENERATED ALWAYS AS IDENTITY, run integer, text text);
CREATE UNLOGGED TABLE strict_child (id integer PRIMARY KEY, run integer REFERENCES run ON DELETE CASCADE);
CREATE UNLOGGED TABLE item (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name integer UNIQUE, n integer DEFAULT 0);
CREATE UNLOGGED TABLE deferred (late integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE UNLOGGED TABLE tally (id integer PRIMARY KEY, n integer DEFAULT 0);
CREATE FUNCTION count_in_run() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN UPDATE run SET n = n + 1 WHERE id = NEW.run; RETURN NEW; END $$;
CREATE TRIGGER gate BEFORE UPDATE OR DELETE ON ti FOR EACH ROW EXECUTE FUNCTION gate();
ALTER TABLE ti DISABLE TRIGGER gate;
"""

# rows of ti lie in the heap as 3, 1, 4, 2; the index (dag, key, place) has them as 4, 3, 2, 1
RESET = """
DELETE FROM note; DELETE FROM loose; DELETE FROM reschedule; DELETE FROM strict_child; DELETE FROM item;
DELETE FROM deferred; DELETE FROM ti; DELETE FROM run; DELETE FROM tally;
INSERT INTO run (id, dag, key) VALUES (1, 'd', 'r'), (2, 'd', 's');
INSERT INTO ti (id, run, place) VALUES (3, 1, 2), (1, 1, 4), (4, 1, 1), (2, 1, 3);
INSERT INTO tally VALUES (1), (2);
"""
SHUFFLED = f"TRUNCATE ti, note, reschedule, loose; {RESET}"
"""The same with the heap exactly in that order: deleted rows would leave holes that later ones may fill."""


@frozen(kw_only=True)
class Case:
    """Bad writers, and the same with the fault taken out."""

    name: str
    because: str
    """Why it fails, in a sentence."""
    bad: tuple[Script, ...]
    good: tuple[Script, ...]
    setup: str = ""
    """Rows besides those of RESET."""
    by_row: bool = False
    plans: tuple[str, ...] = ()
    """What each writer's plan is drawn from."""
    invariant: str | None = None
    """Says what is wrong in the end, if it is not a deadlock."""


LOCK_RUN = "SELECT id FROM run WHERE id = 1 FOR NO KEY UPDATE"
LOCK_TIS = "SELECT id FROM ti WHERE run = 1 ORDER BY id FOR NO KEY UPDATE"
CLAIM_TI = "SELECT id FROM ti WHERE run = 1 ORDER BY id LIMIT 1 FOR NO KEY UPDATE"
WRITE_TIS = "UPDATE ti SET n = n + 1 WHERE id = ANY(ARRAY[{id}]::integer[])"
SCANS = ("index scans", "bitmap scans", "heap scans")
JOINS = ("hash joins", "nested loops", "merge joins")

in_order = Script("run, then its tasks in order", (LOCK_RUN, LOCK_TIS))
tasks_only = Script("tasks in order, by key", (LOCK_TIS,))
lock_then_write = Script("lock in order, then write", (LOCK_TIS, WRITE_TIS))


def lock_ti(n: int) -> str:
    return f"SELECT id FROM ti WHERE id = {n} FOR NO KEY UPDATE"


def insert_item(*names: int, tail: str = "ON CONFLICT DO NOTHING") -> str:
    return f"INSERT INTO item (name) VALUES {', '.join(f'({one})' for one in names)} {tail}"


CASES = (
    Case(
        name="task instance before run",
        because="a worker locks its task and then climbs to the run, against a writer that goes down",
        bad=(Script("task, then run", (lock_ti(1), LOCK_RUN)), in_order),
        good=(Script("run, then task", (LOCK_RUN, lock_ti(1))), in_order),
    ),
    Case(
        name="Airflow 3.2.1: bulk UPDATE by (dag_id, run_id)",
        because="the UPDATE visits rows in index order, SELECT .. FOR UPDATE in order of the primary key",
        bad=(
            Script(
                "bulk UPDATE by (dag_id, run_id)", ("UPDATE ti SET state = 'queued' WHERE dag = 'd' AND key = 'r'",)
            ),
            Script("SELECT .. FOR UPDATE by primary key", ("SELECT id FROM ti WHERE run = 1 ORDER BY id FOR UPDATE",)),
        ),
        good=(
            lock_then_write,
            Script("SELECT .. FOR UPDATE by primary key", ("SELECT id FROM ti WHERE run = 1 ORDER BY id FOR UPDATE",)),
        ),
        by_row=True,
        plans=SCANS,
    ),
    Case(
        name="Airflow before 3.2.2: FOR UPDATE over the joined run",
        because="without OF, a locking join locks task and run row by row: task first, run second",
        bad=(
            Script(
                "FOR UPDATE over a join",
                ("SELECT ti.id FROM ti JOIN run ON run.id = ti.run WHERE ti.run = 1 ORDER BY ti.id FOR UPDATE",),
            ),
            in_order,
        ),
        good=(
            Script(
                "FOR UPDATE OF ti",
                ("SELECT ti.id FROM ti JOIN run ON run.id = ti.run WHERE ti.run = 1 ORDER BY ti.id FOR UPDATE OF ti",),
            ),
            in_order,
        ),
    ),
    Case(
        name="Airflow 19957: lock taken by a foreign key check",
        because="inserting a reschedule row takes KEY SHARE on the run, while only the task is held",
        bad=(
            Script(
                "task, then a row that references its run",
                (lock_ti(1), "INSERT INTO reschedule (run, ti) VALUES (1, 1)"),
            ),
            Script("run FOR UPDATE, then tasks", ("SELECT id FROM run WHERE id = 1 FOR UPDATE", LOCK_TIS)),
        ),
        good=(
            Script(
                "task, then a row that references its run",
                (lock_ti(1), "INSERT INTO reschedule (run, ti) VALUES (1, 1)"),
            ),
            Script("run FOR NO KEY UPDATE, then tasks", (LOCK_RUN, LOCK_TIS)),
        ),
    ),
    Case(
        name="upgrade from SHARE",
        because="both hold SHARE on the row and both want more",
        bad=(Script("share, then write", ("SELECT n FROM run WHERE id = 1 FOR SHARE", "UPDATE run SET n = 1")),) * 2,
        good=(Script("strongest first", (LOCK_RUN, "UPDATE run SET n = 1 WHERE id = 1")),) * 2,
    ),
    Case(
        name="child inserted, then parent FOR UPDATE",
        because="the foreign key check holds KEY SHARE on the parent for both, and UPDATE conflicts with it",
        bad=(
            Script(
                "child, then parent",
                ("INSERT INTO note (run) VALUES (1)", "SELECT id FROM run WHERE id = 1 FOR UPDATE"),
            ),
        )
        * 2,
        good=(Script("child, then parent for no key update", ("INSERT INTO note (run) VALUES (1)", LOCK_RUN)),) * 2,
    ),
    Case(
        name="NO KEY UPDATE, then DELETE",
        because="DELETE needs UPDATE, which waits for whoever inserted a child meanwhile and now wants the parent",
        bad=(
            Script(
                "locks, then deletes",
                ("SELECT id FROM run WHERE id = 2 FOR NO KEY UPDATE", "DELETE FROM run WHERE id = 2"),
            ),
            Script(
                "child, then parent",
                ("INSERT INTO note (run) VALUES (2)", "SELECT id FROM run WHERE id = 2 FOR NO KEY UPDATE"),
            ),
        ),
        good=(
            Script(
                "locks FOR UPDATE, then deletes",
                ("SELECT id FROM run WHERE id = 2 FOR UPDATE", "DELETE FROM run WHERE id = 2"),
            ),
            Script(
                "parent, then child",
                (
                    "SELECT id FROM run WHERE id = 2 FOR NO KEY UPDATE",
                    "INSERT INTO note (run) SELECT id FROM run WHERE id = 2",
                ),
            ),
        ),
    ),
    Case(
        name="unsorted inserts on a unique key",
        because="each value in flight is waited for, and each writer inserts in the order of arrival",
        bad=(
            Script("7, then 5", (insert_item(7), insert_item(5))),
            Script("5, then 7", (insert_item(5), insert_item(7))),
        ),
        good=(
            Script("5 and 7, sorted", (insert_item(5, 7),)),
            Script("5, 6 and 7, sorted", (insert_item(5, 6, 7),)),
        ),
    ),
    Case(
        name="insert before lock at one rank",
        because="one inserted the value and wants the row, the other holds the row and wants the value",
        setup="INSERT INTO item (name) VALUES (1);",
        bad=(
            Script("inserts, then locks", (insert_item(9), "SELECT id FROM item WHERE name = 1 FOR NO KEY UPDATE")),
            Script("locks, then inserts", ("SELECT id FROM item WHERE name = 1 FOR NO KEY UPDATE", insert_item(9))),
        ),
        good=(Script("locks, then inserts", ("SELECT id FROM item WHERE name = 1 FOR NO KEY UPDATE", insert_item(9))),)
        * 2,
    ),
    Case(
        name="DO UPDATE sorted by another key than the primary",
        because="one goes by name, the other by primary key, and the two orders differ",
        setup="INSERT INTO item (name) VALUES (8), (3);",
        bad=(
            Script(
                "upserts by name",
                (
                    "INSERT INTO item (name) VALUES (3) ON CONFLICT (name) DO UPDATE SET n = 1",
                    "INSERT INTO item (name) VALUES (8) ON CONFLICT (name) DO UPDATE SET n = 1",
                ),
            ),
            Script(
                "by primary key",
                (
                    "SELECT id FROM item WHERE name = 8 FOR NO KEY UPDATE",
                    "SELECT id FROM item WHERE name = 3 FOR NO KEY UPDATE",
                ),
            ),
        ),
        good=(Script("by primary key", ("SELECT id FROM item WHERE name IN (3, 8) ORDER BY id FOR NO KEY UPDATE",)),)
        * 2,
    ),
    Case(
        name="deferred unique constraint",
        because="the values are waited for at COMMIT, in the order in which the checks were queued",
        bad=(
            Script("2, then 1", ("INSERT INTO deferred VALUES (2)", "INSERT INTO deferred VALUES (1)")),
            Script("1, then 2", ("INSERT INTO deferred VALUES (1)", "INSERT INTO deferred VALUES (2)")),
        ),
        # sorting the inserts does not help: each check waits for the other's first value
        good=(Script("1 and 2, not deferred", (insert_item(1, 2),)),) * 2,
    ),
    Case(
        name="a sweep against itself, the heap moved",
        because="same text, same plan: a third transaction moved a row between the two snapshots",
        bad=(
            Script("moves a row", ("UPDATE ti SET n = n + 1 WHERE id = 3",)),
            Script("sweep", ("UPDATE ti SET state = 'swept' WHERE state = 'running' AND id % 2 = 1",)),
            Script("sweep", ("UPDATE ti SET state = 'swept' WHERE state = 'running' AND id % 2 = 1",)),
        ),
        good=(
            Script("moves a row", ("UPDATE ti SET n = n + 1 WHERE id = 3",)),
            Script("sweep in order", (LOCK_TIS, WRITE_TIS)),
            Script("sweep in order", (LOCK_TIS, WRITE_TIS)),
        ),
        by_row=True,
        plans=("heap scans",),
    ),
    Case(
        name="sorted IN list",
        because="UPDATE visits rows in the order of the scan, whatever the order of the list",
        bad=(Script("UPDATE .. IN (1, 2, 3, 4)", ("UPDATE ti SET n = n + 1 WHERE id IN (1, 2, 3, 4)",)),) * 2,
        good=(lock_then_write,) * 2,
        by_row=True,
        plans=SCANS,
    ),
    Case(
        name="sorted VALUES join",
        because="a hash join delivers rows in the order of the heap",
        bad=(
            Script(
                "UPDATE .. FROM (VALUES ..)",
                ("UPDATE ti SET n = v.n FROM (VALUES (1, 5), (2, 5), (3, 5), (4, 5)) AS v(id, n) WHERE ti.id = v.id",),
            ),
        )
        * 2,
        good=(lock_then_write,) * 2,
        by_row=True,
        plans=JOINS,
    ),
    Case(
        name="ORDER BY in a sub-select that does not lock",
        because="the order of the sub-select is not the order of the UPDATE",
        bad=(
            Script(
                "UPDATE .. IN (SELECT .. ORDER BY)",
                ("UPDATE ti SET n = n + 1 WHERE id IN (SELECT id FROM ti WHERE run = 1 ORDER BY id LIMIT 4)",),
            ),
        )
        * 2,
        good=(lock_then_write,) * 2,
        by_row=True,
        plans=JOINS,
    ),
    Case(
        name="two sorted statements in one transaction",
        because="each is in order, the order of both together is their concatenation",
        bad=(
            Script(
                "3 and 4, then 1 and 2",
                (
                    "SELECT id FROM ti WHERE id IN (3, 4) ORDER BY id FOR NO KEY UPDATE",
                    "SELECT id FROM ti WHERE id IN (1, 2) ORDER BY id FOR NO KEY UPDATE",
                ),
            ),
            tasks_only,
        ),
        good=(tasks_only, Script("3 and 4", ("SELECT id FROM ti WHERE id IN (3, 4) ORDER BY id FOR NO KEY UPDATE",))),
    ),
    Case(
        name="sorted, then grouped",
        because="the batch is sorted, but rows with other columns go into a statement of their own",
        bad=(
            Script("2 and 3 have a note, 1 has none", (insert_item(2, 3), insert_item(1))),
            Script("1, 2 and 3", (insert_item(1, 2, 3),)),
        ),
        good=(Script("1, 2 and 3", (insert_item(1, 2, 3),)),) * 2,
    ),
    Case(
        name="a loop of single-row locks",
        because="a multi-row lock in the order of arrival",
        bad=(Script("as they arrive: 4, 2, 1", (lock_ti(4), lock_ti(2), lock_ti(1))), tasks_only),
        good=(Script("by key: 1, 2, 4", (lock_ti(1), lock_ti(2), lock_ti(4))), tasks_only),
    ),
    Case(
        name="advisory lock around one of the writers",
        because="the other writer is not under it",
        bad=(
            Script("under an advisory lock", ("SELECT pg_advisory_xact_lock(77)", lock_ti(2), lock_ti(1))),
            tasks_only,
        ),
        good=(
            Script("under an advisory lock", ("SELECT pg_advisory_xact_lock(77)", lock_ti(2), lock_ti(1))),
            Script("under the same", ("SELECT pg_advisory_xact_lock(77)", LOCK_TIS)),
        ),
    ),
    Case(
        name="SKIP LOCKED on one side only",
        because="what was taken without waiting is held, and the next statement waits for a smaller key",
        bad=(
            Script(
                "claims a task with SKIP LOCKED, then wants the run",
                ("SELECT id FROM ti WHERE run = 1 ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED", LOCK_RUN),
            ),
            in_order,
        ),
        good=(
            Script(
                "claims a task and the run with SKIP LOCKED",
                (
                    "SELECT id FROM ti WHERE run = 1 ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
                    "SELECT id FROM run WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED",
                ),
            ),
            in_order,
        ),
    ),
    Case(
        name="SKIP LOCKED removed from a claim that relies on it",
        because="the claim comes after a greater key, which is allowed only to those who cannot wait",
        bad=(Script("holds task 4, claims the first free one", (lock_ti(4), CLAIM_TI)), tasks_only),
        good=(Script("holds task 4, claims the first free one", (lock_ti(4), f"{CLAIM_TI} SKIP LOCKED")), tasks_only),
    ),
    Case(
        name="a caller outside the function that locks",
        because="the order is kept by whoever calls the function, and by nobody else",
        bad=(
            in_order,
            Script("writes the task, then the run", ("UPDATE ti SET n = 1 WHERE id = 1", "UPDATE run SET n = 1")),
        ),
        good=(
            in_order,
            Script("the same through the function", (LOCK_RUN, LOCK_TIS, "UPDATE ti SET n = 1 WHERE id = 1")),
        ),
    ),
    Case(
        name="event with a foreign key to a run that is not held",
        because="its check wants KEY SHARE on the run, which purge holds FOR UPDATE while it wants the task",
        bad=(
            Script("task, then an event of its run", (lock_ti(1), "INSERT INTO note (run) VALUES (1)")),
            Script(
                "purge",
                (
                    "SELECT id FROM run WHERE id = 1 FOR UPDATE SKIP LOCKED",
                    "SELECT id FROM ti WHERE run = 1 ORDER BY id FOR UPDATE",
                ),
            ),
        ),
        good=(
            Script("task, then an event without the constraint", (lock_ti(1), "INSERT INTO loose (run) VALUES (1)")),
            Script(
                "purge",
                (
                    "SELECT id FROM run WHERE id = 1 FOR UPDATE SKIP LOCKED",
                    "SELECT id FROM ti WHERE run = 1 ORDER BY id FOR UPDATE",
                ),
            ),
        ),
    ),
    Case(
        name="ON DELETE CASCADE",
        because="children are locked in the order in which the cascade finds them",
        setup="INSERT INTO strict_child VALUES (2, 2), (1, 2);",
        bad=(
            Script(
                "deletes the parent",
                ("SELECT id FROM strict_child WHERE id = 2 FOR UPDATE", "DELETE FROM run WHERE id = 2"),
            ),
            Script("children in order", ("SELECT id FROM strict_child ORDER BY id FOR NO KEY UPDATE",)),
        ),
        good=(
            Script(
                "children in order, then the parent",
                ("SELECT id FROM strict_child ORDER BY id FOR UPDATE", "DELETE FROM strict_child WHERE run = 2"),
            ),
            Script("children in order", ("SELECT id FROM strict_child ORDER BY id FOR NO KEY UPDATE",)),
        ),
    ),
    Case(
        name="counter on the parent, kept by whoever holds a child",
        because="the hidden UPDATE of the run comes after the task",
        bad=(
            Script("task, then the counter", (lock_ti(1), "UPDATE run SET n = n + 1 WHERE id = 1")),
            in_order,
        ),
        good=(
            Script("task, then an appended row", (lock_ti(1), "INSERT INTO loose (run) VALUES (1)")),
            in_order,
        ),
    ),
    Case(
        name="ctid join",
        because="a row that was updated while it was waited for is locked and silently not written",
        bad=(
            Script(
                "UPDATE .. FROM (SELECT ctid .. FOR UPDATE)",
                (
                    "UPDATE tally SET n = n + 1 FROM (SELECT ctid FROM tally WHERE id = 1 ORDER BY id FOR UPDATE) AS s"
                    " WHERE tally.ctid = s.ctid",
                ),
            ),
        )
        * 2,
        good=(
            Script(
                "lock, then write by key",
                (
                    "SELECT id FROM tally WHERE id = 1 ORDER BY id FOR UPDATE",
                    "UPDATE tally SET n = n + 1 WHERE id = ANY(ARRAY[{id}]::integer[])",
                ),
            ),
        )
        * 2,
        invariant="SELECT 'n is ' || n || ' after two increments' FROM tally WHERE id = 1 AND n <> 2",
    ),
    Case(
        name="read, then write without a lock",
        because="both read the same value: one of the writes is lost",
        bad=(
            Script(
                "reads, adds, writes", ("SELECT n FROM tally WHERE id = 1", "UPDATE tally SET n = {n} + 1 WHERE id = 1")
            ),
        )
        * 2,
        good=(
            Script(
                "locks, reads, adds, writes",
                (
                    "SELECT id FROM tally WHERE id = 1 FOR NO KEY UPDATE",
                    "SELECT n FROM tally WHERE id = 1",
                    "UPDATE tally SET n = {n} + 1 WHERE id = 1",
                ),
            ),
        )
        * 2,
        invariant="SELECT 'n is ' || n || ' after two increments' FROM tally WHERE id = 1 AND n <> 2",
    ),
    Case(
        name="locks and reads in one statement",
        because="what a locking statement computes of another table may predate its wait",
        bad=(
            Script(
                "locks the owner and counts in one go",
                (
                    "SELECT (SELECT count(*) FROM loose WHERE run = run.id) AS used FROM run WHERE id = 1"
                    " FOR NO KEY UPDATE",
                    "INSERT INTO loose (run) SELECT 1 WHERE {used} = 0",
                ),
            ),
        )
        * 2,
        good=(
            Script(
                "locks the owner, then counts",
                (
                    LOCK_RUN,
                    "SELECT count(*) AS used FROM loose WHERE run = 1",
                    "INSERT INTO loose (run) SELECT 1 WHERE {used} = 0",
                ),
            ),
        )
        * 2,
        invariant="SELECT count(*) || ' slots taken of one' FROM loose HAVING count(*) > 1",
    ),
    Case(
        name="claim token missing from a WHERE",
        because="the report of a lost attempt ends its successor",
        bad=(
            Script("reports attempt 1", ("UPDATE ti SET state = 'failed' WHERE id = 1 AND state = 'running'",)),
            Script(
                "takes the task back and starts attempt 2",
                (lock_ti(1), "UPDATE ti SET token = 2 WHERE id = 1 AND token = 1 AND state = 'running'"),
            ),
        ),
        good=(
            Script(
                "reports attempt 1",
                ("UPDATE ti SET state = 'failed' WHERE id = 1 AND state = 'running' AND token = 1",),
            ),
            Script(
                "takes the task back and starts attempt 2",
                (lock_ti(1), "UPDATE ti SET token = 2 WHERE id = 1 AND token = 1 AND state = 'running'"),
            ),
        ),
        invariant="SELECT 'attempt 2 has ended by a report about attempt 1' FROM ti"
        " WHERE id = 1 AND token = 2 AND state = 'failed'",
    ),
    Case(
        name="SKIP LOCKED where skipping loses work",
        because="the event is consumed although the task was skipped, and nobody revisits it",
        setup="INSERT INTO loose (run) VALUES (1);",
        bad=(
            Script(
                "skips the task, consumes the event",
                (
                    "SELECT id FROM ti WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED",
                    "UPDATE ti SET state = 'judged' WHERE id = ANY(ARRAY[{id}]::integer[])",
                    "DELETE FROM loose WHERE run = 1",
                ),
            ),
            Script("touches the task", (lock_ti(1),)),
        ),
        good=(
            Script(
                "waits for the task, consumes the event",
                (
                    lock_ti(1),
                    "UPDATE ti SET state = 'judged' WHERE id = ANY(ARRAY[{id}]::integer[])",
                    "DELETE FROM loose WHERE run = 1",
                ),
            ),
            Script("touches the task", (lock_ti(1),)),
        ),
        invariant="SELECT 'the event is gone and the task was not judged' FROM ti"
        " WHERE id = 1 AND state <> 'judged' AND NOT EXISTS (SELECT FROM loose)",
    ),
)
