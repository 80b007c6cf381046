"""A case for every writer: how to call it so that it has real work in the scenes of `scenes.py`.

To add one: a function under `@case("the_writers_name")` that takes the facts of the scene, the daemon that calls and
the side (0 or 1: what the other one of a pair does should collide with it, not always be the same), and returns
the arguments after the transaction, by a word for the shape of the work. The first shape is the main one, which
all pairs are tried in.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from attrs import frozen

from scheduler.commands.trigger import Request
from scheduler.decisions.clearing import FAILURES, Selection
from scheduler.executors.base import Berth
from scheduler.loading.loader import ImportFailure
from scheduler.model import Outcome, OutcomeKind, RunState, StartRequest, TaskState
from scheduler.procedures.claiming import Look
from scheduler.procedures.pictures import Pictures
from scheduler.procedures.placement import Capacity
from scheduler.procedures.turn import prepare
from scheduler.store import seats
from scheduler.store.documents import Graphs
from scheduler.store.pools import EVERYTHING
from scheduler.store.seats import Seat
from scheduler.store.transaction import Store
from scheduler.store.writer import WRITERS
from tests.interleavings.scenes import DAEMON, DYING, HOME, LIVE, OLD, Facts, dags_of_a, dags_of_b
from tests.interleavings.theatre import Daemon, loaded
from tests.store.test_locking_law import load_writers
from tests.world import chain

Shapes = Mapping[str, tuple[Any, ...]]
Case = Callable[[Facts, Daemon, int], Shapes]

load_writers()

CASES: dict[str, Case] = {}
SINGLES: dict[str, Case] = {}
"""Statements on one row in a transaction of their own, by `Store.single`."""
Calls = Mapping[str, Callable[[Store], Awaitable[Any]]]
MOVES: dict[str, Callable[[Facts, Daemon, int], Calls]] = {}
"""What takes several transactions, one after the other."""


def case(name: str) -> Callable[[Case], Case]:
    """Register the case of a writer."""

    def register(made: Case) -> Case:
        assert name not in CASES
        CASES[name] = made
        return made

    return register


@frozen(kw_only=True)
class Work:
    """One call that can be made."""

    name: str
    shape: str
    call: Callable[[Store], Awaitable[Any]]
    stepped: bool = True

    def __str__(self) -> str:
        return f"{self.name}[{self.shape}]"


def production_writers() -> list[str]:
    """The names of all writers of the code base."""
    return sorted(name for name, one in WRITERS.items() if one.function.__module__.startswith("scheduler."))


def names() -> list[str]:
    """Everything that has a case."""
    return [*sorted(CASES), *sorted(SINGLES), *sorted(MOVES)]


def shapes_of(name: str, facts: Facts, daemon: Daemon, side: int = 0) -> list[Work]:
    """All shapes of work of one writer, the main one first."""
    if name in SINGLES:
        return [
            Work(name=name, shape=shape, call=_single(name, arguments), stepped=False)
            for shape, arguments in SINGLES[name](facts, daemon, side).items()
        ]
    if name in MOVES:
        return [Work(name=name, shape=shape, call=call) for shape, call in MOVES[name](facts, daemon, side).items()]
    return [
        Work(name=name, shape=shape, call=_transact(name, daemon, arguments))
        for shape, arguments in CASES[name](facts, daemon, side).items()
    ]


def main_shape(name: str, facts: Facts, daemon: Daemon, side: int = 0) -> Work:
    return shapes_of(name, facts, daemon, side)[0]


def _transact(name: str, daemon: Daemon, arguments: tuple[Any, ...]) -> Callable[[Store], Awaitable[Any]]:
    async def call(store: Store) -> Any:
        result = await store.transact(WRITERS[name], *arguments)
        if getattr(result, "stale", False):
            daemon.pictures.clear()
        elif hasattr(result, "pictures"):
            daemon.pictures.keep(result.pictures, finished=getattr(result, "finished", ()))
        return result

    return call


def _single(name: str, arguments: tuple[Any, ...]) -> Callable[[Store], Awaitable[Any]]:
    async def call(store: Store) -> Any:
        return await getattr(seats, name)(store, *arguments)

    return call


def everything(facts: Facts, daemon: Daemon, side: int = 0) -> Iterator[Work]:
    """All shapes of all writers."""
    for name in names():
        yield from shapes_of(name, facts, daemon, side)


# --- seats --------------------------------------------------------------------------------------------------


def _seat(uuid: str, home: str, kind: str = "daemon") -> Seat:
    return Seat(uuid=uuid, kind=kind, hostname="h", pid=3, home=home)


@case("take_seat")
def _take_seat(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    new = f"11111111-1111-1111-1111-11111111111{side}"
    return {
        "after another": (_seat(new, f"{HOME}/{DAEMON[-1]}"),),
        "for the first time": (_seat(new, "/new"),),
        "again": (_seat(DAEMON, f"{HOME}/{DAEMON[-1]}"),),
        "back from the dead": (_seat(OLD, f"{HOME}/{DAEMON[-1]}"),),
        "the same one": (_seat("22222222-2222-2222-2222-222222222222", "/same"),),
    }


@case("purge_seats")
def _purge_seats(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"all": (100,), "one": (1,)}


def single(name: str) -> Callable[[Case], Case]:
    """Register a call of `Store.single`."""

    def register(made: Case) -> Case:
        SINGLES[name] = made
        return made

    return register


@single("register")
def _register(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {
        "again": (_seat(DYING, f"{HOME}/{DYING[-1]}", "worker"),),
        "anew": (_seat("33333333-3333-3333-3333-333333333333", HOME, "worker"),),
    }


@single("beat")
def _beat(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"the dying": (DYING,), "the daemon": (DAEMON,), "the old": (OLD,)}


@single("leave")
def _leave(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"the daemon": (DAEMON,), "the dying": (DYING,)}


# --- files and dags -----------------------------------------------------------------------------------------


@case("store_file")
def _store_file(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    both = frozenset({"a.py", "b.py", "c.py", "d.py"})
    same, changed = loaded(*dags_of_a(facts.now)), loaded(*dags_of_a(facts.now), source=f"# changed {side}")
    new = loaded(*(chain(1, name) for name in ("new3", "new1", "new2")))
    swapped = loaded(*(chain(1, name) for name in ("new2", "new3", "new1")))
    return {
        "changed": ("a.py", changed, both),
        "the same": ("a.py", same, both),
        "new": (("c.py", new, both), ("d.py", swapped, frozenset({"d.py"})))[side],
        "without its dags": ("b.py", loaded(chain(1, "other"), source=str(side)), both),
        "moved": ("c.py", loaded(*reversed(dags_of_b())), frozenset({"c.py"})),
        "broken": ("a.py", ImportFailure(line=1, message="no"), both),
        "new and broken": ("e.py", ImportFailure(line=1, message="no"), both),
        "a duplicate": ("b.py", loaded(*dags_of_a(facts.now)), both),
    }


@case("forget_files")
def _forget_files(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"both": (["b.py", "a.py"],), "one": (["a.py"],), "unknown": (["z.py"],)}


@case("pause_dag")
def _pause_dag(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {
        "unpause": ("fan", False),
        "pause": ("fan", True),
        "pause another": ("clock", True),
        "unknown": ("nobody", True),
    }


# --- runs ---------------------------------------------------------------------------------------------------


@case("create_due_runs")
def _create_due_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {
        "all": (daemon.graphs, 100, room(daemon, 100)),
        "one": (daemon.graphs, 1, room(daemon, 1)),
        "no worker": (daemon.graphs, 100),
        "cold": (Graphs(), 100),
    }


@case("trigger_runs")
def _trigger_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    date = facts.now.replace(minute=0, second=0) - timedelta(hours=1)

    def asked(*names: str, **options: Any) -> Callable[[], list[Request]]:
        return lambda: [Request(run_id=name, **options) for name in names]

    def dated() -> list[Request]:
        return [Request(run_id=f"dated {side}", logical_date=date), Request(run_id=f"beside {side}")]

    here = room(daemon, 2)
    return {
        "dated": (daemon.graphs, "clock", dated),
        "starts": (daemon.graphs, "tail", asked(f"at once {side}"), here),
        "full": (daemon.graphs, "fan", asked(f"by hand {side}")),
        "has room": (daemon.graphs, "tail", asked(f"room {side}", conf={"a": 1})),
        "the same id": (daemon.graphs, "tail", asked("twice")),
        "several": (daemon.graphs, "tail", asked(f"z {side}", "twice", f"a {side}", "thrice"), here),
        "unknown": (daemon.graphs, "nobody", asked(f"nobody {side}")),
    }


@case("start_queued_runs")
def _start_queued_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"all": (daemon.graphs, 100), "one": (daemon.graphs, 1)}


@case("judge_runs")
def _judge_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {
        "all": (daemon.graphs, daemon.pictures, 100),
        "one": (daemon.graphs, daemon.pictures, 1),
        "cold": (Graphs(), Daemon(store=daemon.store).pictures, 100),
    }


@case("time_out_due_runs")
def _time_out_due_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"all": (100,), "one": (1,)}


@case("cancel_runs")
def _cancel_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    running, queued = facts.runs["running"], facts.runs["queued"]
    ended = (*facts.runs["success"], *facts.runs["failed"])
    return {
        "running": (running[::-1],),
        "one running": (running[:1],),
        "queued": (queued,),
        "both": ((*queued, *running),),
        "ended": (ended[:1],),
        "no such run": ((10**9,),),
    }


FIRST_AND_BELOW = Selection(tasks=frozenset({"first"}), downstream=True)
MIDDLE = Selection(tasks=frozenset({"m0", "m1", "m2"}))


@case("clear_tasks")
def _clear_tasks(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    running, queued = facts.runs["running"], facts.runs["queued"]
    over = (*facts.runs["success"], *facts.runs["failed"])
    return {
        "running": (daemon.graphs, running[::-1], Selection()),
        "one running": (daemon.graphs, running[:1], Selection()),
        "below the first": (daemon.graphs, running, FIRST_AND_BELOW),
        "over": (daemon.graphs, over[::-1], Selection()),
        "all": (daemon.graphs, (*over, *queued, *running), Selection()),
        "failures": (daemon.graphs, (*running, *over), Selection(only=FAILURES)),
        "cold": (Graphs(), running, Selection()),
        "no such run": (daemon.graphs, (10**9,), Selection()),
    }


@case("mark_tasks")
def _mark_tasks(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    running, queued = facts.runs["running"], facts.runs["queued"]
    over = (*facts.runs["success"], *facts.runs["failed"])
    state = (TaskState.SUCCESS, TaskState.FAILED)[side]
    return {
        "running": (daemon.graphs, running[::-1], Selection(), state),
        "middle": (daemon.graphs, running, MIDDLE, TaskState.SKIPPED),
        "below the first": (daemon.graphs, running, FIRST_AND_BELOW, state),
        "over": (daemon.graphs, over, Selection(), TaskState.FAILED),
        "all": (daemon.graphs, (*over, *queued, *running), Selection(), state),
        "cold": (Graphs(), running, MIDDLE, state),
        "no such run": (daemon.graphs, (10**9,), Selection(), state),
    }


@case("mark_runs")
def _mark_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    running, queued = facts.runs["running"], facts.runs["queued"]
    over = (*facts.runs["success"], *facts.runs["failed"])
    state = (RunState.SUCCESS, RunState.FAILED)[side]
    return {
        "running": (running[::-1], state),
        "queued": (queued, state),
        "over": (over, RunState.FAILED),
        "all": ((*over, *queued, *running), state),
        "no such run": ((10**9,), state),
    }


@case("purge_runs")
def _purge_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"old": (timedelta(days=90), 50), "one": (timedelta(days=90), 1), "all": (timedelta(0), 50)}


# --- attempts -----------------------------------------------------------------------------------------------


@case("admit_scheduled")
def _admit_scheduled(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {
        "all": (daemon.graphs, daemon.pictures, Capacity(where=daemon.place, slots=100), Look()),
        "one": (daemon.graphs, daemon.pictures, room(daemon, 1), Look()),
        "started": (daemon.graphs, daemon.pictures, room(daemon, 100), Look()),
        "past a run": (
            daemon.graphs,
            daemon.pictures,
            room(daemon, 100),
            Look(full_runs=facts.runs["running"][:1], full_pools=["small"]),
        ),
        "cold": (Graphs(), Pictures(), Capacity(where=daemon.place, berths=berths(2), slots=100), Look()),
    }


def berths(free: int) -> list[Berth]:
    """At the worker that lives."""
    return [Berth(worker_id=LIVE, hostname="h", free=free)] if free else []


def room(daemon: Daemon, free: int) -> Capacity:
    return Capacity(where=daemon.place, berths=berths(free))


def _in_order(tokens: tuple[str, ...], side: int) -> list[str]:
    return list(tokens if side == 0 else tokens[::-1])


@case("start_claimed")
def _start_claimed(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    def requests(*tokens: str, worker: str = LIVE) -> list[StartRequest]:
        return [StartRequest(token=token, worker_id=worker, pid=5, hostname="h") for token in tokens]

    queued = _in_order(facts.queued, side)
    late = [*queued, *facts.running, *facts.ended]
    return {
        "queued": (daemon.graphs, requests(*queued, worker=(LIVE, DYING)[side])),
        "late": (daemon.graphs, requests(*late)),
        "cold": (Graphs(), requests(*queued)),
        "unknown": (daemon.graphs, requests("44444444-4444-4444-4444-444444444444")),
    }


@case("end_attempts")
def _end_attempts(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    def reports(kind: OutcomeKind, *tokens: str, **said: Any) -> list[Outcome]:
        return [Outcome(token=token, kind=kind, **said) for token in tokens]

    running = _in_order(facts.running, side)
    kind = (OutcomeKind.SUCCESS, OutcomeKind.FAILED)[side]
    result = "1" if kind is OutcomeKind.SUCCESS else None
    everything = [*running, *facts.queued, *facts.ended]
    return {
        "running": (daemon.graphs, reports(kind, *running, result=result)),
        "one": (daemon.graphs, reports(kind, *running[:1], result=result)),
        "fails": (daemon.graphs, reports(OutcomeKind.FAILED, *running, reason="exception", message="no")),
        "lost": (daemon.graphs, reports(OutcomeKind.LOST, *running, *facts.queued, reason="shutdown")),
        "late": (daemon.graphs, reports(kind, *everything, result=result)),
        "cold": (Graphs(), reports(OutcomeKind.SKIPPED, *running)),
    }


@case("advance_runs")
def _advance_runs(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    remembered = Pictures()
    remembered.keep(facts.known)

    def call(
        tokens: list[str], *, slots: int = 100, graphs: Graphs | None = None, look: Look | None = None
    ) -> tuple[Any, ...]:
        said = {token: Outcome(token=token, kind=OutcomeKind.SUCCESS, result="1") for token in tokens}
        turn = prepare(remembered, said, facts.whereabouts)
        return (graphs or daemon.graphs, remembered, turn, room(daemon, slots), look)

    running = _in_order(facts.running, side)
    # a run with events goes the long way; the first attempt is of one that has none
    return {
        "first": call(list(facts.running[:1])),
        "all": call(running),
        "last": call(running[-1:]),
        "with who waits": call(running, look=Look()),
        "no slots": call(list(facts.running[:1]), slots=0),
        "cold": call(list(facts.running[:1]), graphs=Graphs()),
    }


@case("rescue_lost")
def _rescue_lost(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"all": (daemon.graphs, 100), "one": (daemon.graphs, 1)}


@case("rescue_stuck")
def _rescue_stuck(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"all": (daemon.graphs, [LIVE], 100), "one": (daemon.graphs, [], 1)}


@case("rescue_missing")
def _rescue_missing(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    running = _in_order(facts.running, side)
    return {"all": (daemon.graphs, running), "late": (daemon.graphs, [*running[:1], *facts.ended])}


# --- pools --------------------------------------------------------------------------------------------------


@case("write_pool")
def _write_pool(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    # only ever more slots: fewer than are in use stop nothing, so the promise would have to allow for it
    return {
        "the installation": (EVERYTHING, 10 + side, None),
        "in use": ("default_pool", 200, "more"),
        "new": ("fresh", 5, "new"),
        "spare": ("spare", 2, None),
    }


@case("drop_pool")
def _drop_pool(facts: Facts, daemon: Daemon, side: int) -> Shapes:
    return {"spare": ("spare",), "needed": ("default_pool",), "unknown": ("nobody",), "small": ("small",)}


# --- adoption -----------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Adoption:
    """A daemon inherits attempts that run: their worker has outlived its predecessor, and calls.

    Taking the predecessor's seat ends its lease; the hello makes Heartbeat seat the worker; starts that were never
    answered are asked for again; what has ended meanwhile is reported. The daemon has an empty memory, so no report
    takes the short way.
    """

    seat: Seat
    worker: Seat
    graphs: Graphs
    starts: list[StartRequest]
    reports: list[Outcome]

    async def __call__(self, store: Store) -> None:
        await store.transact(WRITERS["take_seat"], self.seat)
        await seats.register(store, self.worker)
        if self.starts:
            await store.transact(WRITERS["start_claimed"], self.graphs, self.starts)
        if self.reports:
            await store.transact(WRITERS["end_attempts"], self.graphs, self.reports)


def _adopt(facts: Facts, daemon: Daemon, side: int) -> Calls:
    new = f"55555555-5555-5555-5555-55555555555{side}"
    running, queued = _in_order(facts.running, side), _in_order(facts.queued, side)

    def adoption(starts: list[str], ended: list[str], kind: OutcomeKind = OutcomeKind.SUCCESS) -> Adoption:
        return Adoption(
            seat=_seat(new, f"{HOME}/{DAEMON[-1]}"),
            worker=_seat(LIVE, f"{HOME}/{LIVE[-1]}", "worker"),
            graphs=Graphs(),
            starts=[StartRequest(token=token, worker_id=LIVE, pid=5, hostname="h") for token in starts],
            reports=[Outcome(token=token, kind=kind) for token in ended],
        )

    return {
        "starts and ends": adoption([*queued, *running[:1]], running[1:]),
        "starts": adoption([*running, *queued], []),
        "ends": adoption([], [*running, *facts.ended]),
        "losses": adoption([], [*running, *queued], OutcomeKind.LOST),
        "nothing": adoption([], []),
    }


MOVES["adopt"] = _adopt
