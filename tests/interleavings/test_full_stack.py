"""Several daemons, workers and an operator over one database at once, as Hypothesis has them: the production code,
stopped at every statement. Moves: begin a call, give a turn, cut a connection, cancel a caller, let time pass, let a
daemon die and another one adopt what it has left running.
Whatever the story, in the end nobody waits for nobody, every promise holds, and all runs come to their end.

All choices are drawn in the test's thread; the trio side only ever says who can move.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, event, note, seed, settings, target
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.database import Server
from tests.interleavings import cases, parameters
from tests.interleavings.promises import check, drain
from tests.interleavings.report import part
from tests.interleavings.scenes import arrange, daemons, look
from tests.interleavings.theatre import Daemon, Theatre, play

AT_ONCE = 4
"""Calls under way, at most."""
SCENES = ("rich", "calm")
LIVELY = [
    "advance_runs", "end_attempts", "judge_runs", "admit_scheduled", "start_claimed", "start_queued_runs",
    "create_due_runs", "cancel_runs", "rescue_lost", "rescue_stuck", "time_out_due_runs", "purge_runs",
    "trigger_runs", "clear_tasks", "mark_tasks", "mark_runs",
]  # fmt: skip
"""Drawn as often as all together: those who move runs."""

CALL = st.tuples(
    st.sampled_from(LIVELY) | st.sampled_from(cases.names()),
    st.integers(0, 7),
    st.integers(0, 1),
    st.integers(0, 1),
)
"""A writer, the shape of its work, which daemon, which side."""


FLOORS = {
    "with somebody blocked": 0.05,
    "connections cut": 0.2,
    "callers cancelled": 0.2,
    "daemons that died": 0.2,
    "distinct courses": 0.3,
}
"""How many there are for each example, at least: without them the examples would show nothing."""

STORIES: set[int] = set()
"""Of all examples: different choices may lead to the same course."""


class Players:
    """What an example does, on the trio side."""

    def __init__(self, theatre: Theatre) -> None:
        self.theatre = theatre
        self.everybody: list[Daemon] = []
        self.begun = 0

    async def set_scene(self, scene: str) -> None:
        await self.theatre.stage.clear()
        await self.theatre.reset(scene)
        self.theatre.stage.story.append(f"in the scene {scene!r}")
        self.everybody = daemons(self.theatre)
        self.begun = 0

    async def begin(self, name: str, shape: int, who: int, side: int) -> str:
        """Somebody calls a writer, with what is in the database now; two daemons, and an operator at the first."""
        daemon = self.everybody[who]
        shapes = cases.shapes_of(name, await look(self.theatre), daemon, side)
        work = shapes[shape % len(shapes)]
        self.begun += 1
        stage = self.theatre.stage
        stage.start(f"{self.begun} {work} of daemon {who}", daemon.store, work.call, stepped=work.stepped)
        await stage.settle()
        return str(work)

    async def turn(self, which: int) -> None:
        parked = self.theatre.stage.parked()
        await self.theatre.stage.turn(parked[which % len(parked)])

    async def run_on(self, which: int) -> None:
        parked = self.theatre.stage.parked()
        await self.theatre.stage.run_on(parked[which % len(parked)])

    async def cut(self, which: int) -> None:
        stage = self.theatre.stage
        there = [actor for actor in stage.unfinished() if actor.pid is not None]
        await stage.crash(there[which % len(there)])
        await stage.settle()

    async def cancel(self, which: int) -> None:
        stage = self.theatre.stage
        there = stage.unfinished()
        actor = there[which % len(there)]
        stage.story.append(f"{actor.name}: its caller is cancelled")
        actor.scope.cancel()
        await stage.settle()

    async def adopt(self, who: int, shape: int) -> str:
        """A daemon dies, and its successor, whose memory is empty, inherits what runs at the worker."""
        stage = self.theatre.stage
        stage.story.append(f"daemon {who} dies")
        for actor in stage.unfinished():
            if actor.name.endswith(f"of daemon {who}"):
                actor.scope.cancel()
                if actor.pid is not None:
                    await stage.crash(actor)
        await stage.settle()
        self.everybody[who] = Daemon(store=self.theatre.stores[who])
        return await self.begin("adopt", shape, who, who)

    async def end(self) -> tuple[int, int]:
        """Everybody goes on to the end, then everything does."""
        stage = self.theatre.stage
        await stage.finish()
        await check(self.theatre)
        begun, blocked = self.begun, stage.blocked
        await drain(self.theatre, self.everybody[0])
        stage.actors.clear()
        return begun, blocked

    async def clear(self) -> None:
        await self.theatre.stage.clear()


def machine(call: Callable[..., Any], players: Players, seeded: int) -> type[RuleBasedStateMachine]:
    """`call` runs an async function of the trio side from the test's thread."""
    stage = players.theatre.stage
    figures = part("full stack")

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.failed = False
            self.blocked = stage.blocked

        @initialize(scene=st.sampled_from(SCENES), first=st.lists(CALL, min_size=2, max_size=3))
        def scene(self, scene: str, first: list[tuple[str, int, int, int]]) -> None:
            call(players.set_scene, scene)
            for one in first:
                self.move(players.begin, *one)

        def move(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
            try:
                result = call(function, *arguments)
            except BaseException:
                self.failed = True
                note("\n".join(stage.told()))
                raise
            return result

        @precondition(lambda self: len(stage.unfinished()) < AT_ONCE)
        @rule(one=CALL)
        def begin(self, one: tuple[str, int, int, int]) -> None:
            self.move(players.begin, *one)

        @precondition(lambda self: bool(stage.parked()))
        @rule(which=st.integers(0, AT_ONCE - 1))
        def turn(self, which: int) -> None:
            self.move(players.turn, which)

        @precondition(lambda self: len(stage.parked()) > 1)
        @rule(which=st.integers(0, AT_ONCE - 1))
        def another_turn(self, which: int) -> None:
            self.move(players.turn, which)

        @precondition(lambda self: bool(stage.parked()))
        @rule(which=st.integers(0, AT_ONCE - 1))
        def run_on(self, which: int) -> None:
            self.move(players.run_on, which)

        @rule(what=st.sampled_from(["cut", "cancel", "later"]), which=st.integers(0, AT_ONCE - 1))
        def misfortune(self, what: str, which: int) -> None:
            if what == "cut" and any(actor.pid is not None for actor in stage.unfinished()):
                self.move(players.cut, which)
                figures.count(**{"connections cut": 1})
            elif what == "cancel" and stage.unfinished():
                self.move(players.cancel, which)
                figures.count(**{"callers cancelled": 1})
            elif what == "later":
                players.theatre.later(seconds=(1, 15, 100, 1)[which])
                stage.story.append("time passes")

        @precondition(lambda self: len(stage.unfinished()) < AT_ONCE)
        @rule(who=st.integers(0, 1), shape=st.integers(0, 4))
        def adopt(self, who: int, shape: int) -> None:
            self.move(players.adopt, who, shape)
            figures.count(**{"daemons that died": 1})

        def teardown(self) -> None:
            if self.failed or not players.everybody:
                call(players.clear)
                return
            before, story = stage.blocked, hash(tuple(stage.story))
            begun, _ = self.move(players.end)
            target(float(stage.blocked - before), label="waits")
            event(f"{begun} calls")
            figures.count(examples=1, transactions=begun, **{"distinct courses": int(story not in STORIES)})
            figures.count(**{"with somebody blocked": stage.blocked > self.blocked})
            STORIES.add(story)
            figures.say(seed=seeded)

    return Machine


@pytest.mark.stress
@pytest.mark.takes(90)
def test_daemons_workers_and_an_operator_at_once(server: Server) -> None:
    big = partial(explore, examples=parameters.EXAMPLES, steps=parameters.STEPS, seeded=parameters.SEED)
    before = Counter(part("full stack").numbers)
    play(server, big, stores=2)
    did = part("full stack").numbers - before
    for what, share in FLOORS.items():
        assert did[what] >= share * did["examples"] > 0, f"{what}: {did[what]} in {did['examples']} examples"


def test_some_daemons_workers_and_an_operator_at_once(server: Server) -> None:
    play(server, partial(explore, examples=10, steps=20, seeded=parameters.SMALL_SEED), stores=2)


async def explore(theatre: Theatre, *, examples: int, steps: int, seeded: int) -> None:
    """Hypothesis in a thread of its own, the theatre here."""
    await arrange(theatre, *SCENES)
    players = Players(theatre)
    call = trio.from_thread.run

    def run() -> None:
        configured = settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=False,
            phases=[Phase.generate, Phase.target, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=True,
        )
        with pytest.MonkeyPatch.context() as patch:
            # an example takes a fifth of a second: five minutes of shrinking are more than anybody waits for
            patch.setattr(engine, "MAX_SHRINKING_SECONDS", parameters.SHRINK_SECONDS)
            run_state_machine_as_test(seed(seeded)(machine(call, players, seeded)), settings=configured)

    await trio.to_thread.run_sync(run)
