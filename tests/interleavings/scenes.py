"""Scenes: rows arranged by the production writers so that every writer has something to do, on the same rows.

`rich`: several dags, runs and attempts in every state, timers and events due, seats expired, pools nearly full.
`calm`: nobody waits for a slot, so what ends may take the short way.
`wide`: many rows of each table for one statement.
`bare`: nothing to do.
"""

import json
from datetime import datetime, timedelta
from typing import Any

from attrs import asdict, evolve, frozen

from scheduler.model import Catchup, Dag, OutcomeKind, RetryPolicy, Schedule, ScheduleKind, Task
from scheduler.procedures.pictures import Known, look_at
from scheduler.procedures.placement import Whereabouts
from scheduler.routines.load_dags import store_file
from scheduler.store import pools, seats
from scheduler.store.seats import Seat
from tests.interleavings.theatre import Daemon, Theatre, loaded
from tests.world import World, chain, every, fan

LIVE, DYING = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
"""Workers: one with a lease, one whose lease has ended."""
DAEMON, OLD = "00000000-0000-0000-0000-00000000000d", "00000000-0000-0000-0000-00000000000e"
HOME = "/home"
RETRY = RetryPolicy(retries=1, delay=10)


@frozen(kw_only=True)
class Facts:
    """What is on the stage: read from committed rows, for whoever wants to call a writer."""

    now: datetime
    queued: tuple[str, ...]
    running: tuple[str, ...]
    ended: tuple[str, ...]
    """Claim tokens of attempts, by state, oldest first."""
    runs: dict[str, tuple[int, ...]]
    """Run keys by state."""
    dags: tuple[str, ...]
    whereabouts: dict[str, Whereabouts]
    known: dict[int, Known]
    """What a daemon remembers of the running runs."""

    def copy(self) -> "Facts":
        """With a memory of its own: writers add to it."""

        def own(one: Known) -> Known:
            picture = one.picture
            return one if picture is None else evolve(one, picture=evolve(picture.copy(), keys=picture.keys.copy()))

        return evolve(self, known={run_pk: own(one) for run_pk, one in self.known.items()})

    def plain(self) -> dict[str, Any]:
        """All of it as values that can be compared."""

        def values(one: Known) -> tuple[Any, ...]:
            picture = {} if one.picture is None else asdict(one.picture, recurse=False)
            picture.pop("graph", None)
            return one.seq, one.card, picture

        return asdict(self, recurse=False) | {"known": {run_pk: values(one) for run_pk, one in self.known.items()}}


async def look(theatre: Theatre) -> Facts:
    """The present facts."""
    (row,) = await theatre.rows(
        "SELECT (SELECT json_agg(x) FROM (SELECT a.token, a.state, a.ti_id, ti.run_pk, ti.task_index FROM attempt a"
        " JOIN task_instance ti ON ti.id = a.ti_id ORDER BY a.ti_id, a.queued_at, a.try_number, a.token) x)"
        " AS attempts, (SELECT json_agg(x) FROM (SELECT id, state FROM dag_run ORDER BY id) x) AS runs,"
        " (SELECT json_agg(dag_id ORDER BY id) FROM dag) AS dags"
    )
    attempts, runs, dags = (json.loads(row[name] or "[]") for name in ("attempts", "runs", "dags"))

    def tokens(*states: str) -> tuple[str, ...]:
        return tuple(one["token"] for one in attempts if one["state"] in states)

    running = [run["id"] for run in runs if run["state"] == "running"]
    return Facts(
        now=theatre.now,
        known=await theatre.store.read(look_at, theatre.graphs, running),
        queued=tokens("queued"),
        running=tokens("running"),
        ended=tokens("success", "failed", "skipped", "lost", "revoked"),
        runs={
            state: tuple(run["id"] for run in runs if run["state"] == state)
            for state in ("queued", "running", "success", "failed")
        },
        dags=tuple(dags),
        whereabouts={
            one["token"]: Whereabouts(run_pk=one["run_pk"], key=one["ti_id"], task_index=one["task_index"])
            for one in attempts
            if one["state"] == "running"
        },
    )


def dags_of_a(now: datetime, width: int = 4) -> tuple[Dag, ...]:
    """The file a.py."""
    wide = fan(width, "fan", max_active_runs=3, max_active_tasks=3, dagrun_timeout=100.0)
    return (
        evolve(wide, tasks=tuple(evolve(task, retry=RETRY) for task in wide.tasks)),
        evolve(
            chain(2, "clock", pool="small"),
            schedule=every(3600),
            catchup=Catchup.ALL,
            start_date=now - timedelta(hours=3),
            max_active_runs=4,
        ),
    )


def dags_of_b() -> tuple[Dag, ...]:
    """The file b.py."""
    loop = evolve(
        chain(1, "loop"), schedule=Schedule(kind=ScheduleKind.CONTINUOUS, text="@continuous"), paused_upon_creation=True
    )
    return (loop, chain(3, "tail", retry=RETRY), Dag(dag_id="idle", schedule=every(60), tasks=(Task(task_id="t"),)))


def world_of(theatre: Theatre, dsn: str = "") -> World:
    """The verbs of `tests.world` on the theatre's store."""
    return World(store=theatre.store, dsn=dsn, bridge=theatre.bridge, worker=LIVE, daemon=DAEMON)


async def _seats(theatre: Theatre) -> None:
    for uuid, kind in ((DYING, "worker"), (LIVE, "worker"), (OLD, "daemon"), (DAEMON, "daemon")):
        await seats.register(theatre.store, Seat(uuid=uuid, kind=kind, hostname="h", pid=1, home=f"{HOME}/{uuid[-1]}"))


async def _leases(theatre: Theatre) -> None:
    """Those who live have a lease, long enough for any clock; the others' ended a while ago."""
    far, past, old = (
        theatre.now + timedelta(days=1),
        theatre.now - timedelta(minutes=1),
        theatre.now - timedelta(days=2),
    )
    for uuid, until in ((LIVE, far), (DAEMON, far), (DYING, past), (OLD, old)):
        await theatre.monitor.execute("UPDATE seat SET lease_until = $1 WHERE uuid = $2", until, uuid)
    # wherever SQL itself looks at the clock, it must find the same
    await theatre.monitor.execute(
        "INSERT INTO seat (uuid, kind, hostname, pid, home, lease_until) SELECT gen_random_uuid(), 'worker', 'old', n,"
        " 'x', $1 FROM generate_series(1, 3) n",
        old,
    )


async def _set_up(theatre: Theatre, width: int) -> World:
    world = world_of(theatre)
    await _seats(theatre)
    files = frozenset({"a.py", "b.py"})
    await theatre.store.transact(store_file, "a.py", loaded(*dags_of_a(theatre.now, width)), files)
    await theatre.store.transact(store_file, "b.py", loaded(*dags_of_b()), files)
    await theatre.store.transact(pools.write_pool, "small", 3, None)
    await theatre.store.transact(pools.write_pool, "spare", 1, None)
    return world


async def rich(theatre: Theatre, *, width: int = 4, slots: int = 9, name: str = "rich") -> None:
    """See the module."""
    now = theatre.now
    world = await _set_up(theatre, width)
    theatre.now = now - timedelta(days=100)
    for _ in range(2):  # long ago; their timers are still there
        await world.trigger("fan")
        while (await look(theatre)).runs["running"]:
            await world.round(result="1")
    theatre.now = now - timedelta(seconds=300)
    await theatre.store.transact(pools.write_pool, pools.EVERYTHING, slots, None)
    await world.trigger("tail")  # runs, and nothing else is to be said of it
    await world.start(await world.admit(), worker=LIVE)
    theatre.now = now - timedelta(seconds=200)
    for _ in range(3):
        await world.trigger("fan")
    await _first_ones(world)
    admitted = await world.admit(7)
    assert len(admitted) == 7, "of three runs with three at once"
    first, rest = admitted[:3], admitted[3:]
    await world.start(first[:2], worker=DYING)
    await world.start([first[2], *rest[:2]], worker=LIVE)
    theatre.now = now - timedelta(seconds=60)
    await world.end([first[2]], result='"of m"')
    await world.end([rest[0]], OutcomeKind.FAILED, message="no", reason="exception")
    await world.trigger("fan")  # these two have to wait: three are running
    await world.trigger("fan")
    await world.commands.pause(theatre.store, dag_id="clock", paused=True)
    for _ in range(2):
        await world.trigger("clock")
    await world.commands.pause(theatre.store, dag_id="clock", paused=False)
    await world.commands.pause(theatre.store, dag_id="loop", paused=False)
    theatre.now = now
    await theatre.monitor.execute("UPDATE dag SET next_due = $1 WHERE dag_id IN ('clock', 'loop', 'idle')", now)
    await _leases(theatre)
    await theatre.keep(name)


async def _first_ones(world: World) -> None:
    """The first task of each fan ends, and what comes below is scheduled."""
    workloads = await world.admit()
    await world.start(workloads)
    await world.end(workloads, result='"of first"')
    await world.judge()


async def calm(theatre: Theatre) -> None:
    """See the module."""
    now = theatre.now
    world = await _set_up(theatre, 3)
    theatre.now = now - timedelta(seconds=50)
    for dag_id in ("tail", "fan", "tail"):
        await world.trigger(dag_id)
    workloads = await world.admit()
    await world.start(workloads)
    theatre.now = now
    await _leases(theatre)
    assert await world.rows("SELECT 1 FROM task_instance WHERE state = 'scheduled'") == []
    await theatre.keep("calm")


async def wide(theatre: Theatre) -> None:
    """See the module."""
    await rich(theatre, width=9, name="wide")


async def bare(theatre: Theatre) -> None:
    """See the module."""
    await _seats(theatre)
    far = theatre.now + timedelta(days=1)
    await theatre.monitor.execute("UPDATE seat SET lease_until = $1", far)
    await theatre.keep("bare")


SCENES = {"rich": rich, "calm": calm, "wide": wide, "bare": bare}


async def arrange(theatre: Theatre, *names: str) -> None:
    """Arrange these scenes, one after the other."""
    now = theatre.now
    await theatre.keep("nothing")
    for name in names:
        await theatre.reset("nothing")
        theatre.now = now
        await SCENES[name](theatre)


def daemons(theatre: Theatre) -> list[Daemon]:
    """One for each store: the first one's seat is DAEMON."""
    made = [Daemon(store=store) for store in theatre.stores]
    made[0].uuid = DAEMON
    return made
