"""Plays schedules of several writers in a scene, and counts what it did."""

import random
from collections.abc import Sequence

from attrs import define, field

from tests.interleavings import cases, parameters
from tests.interleavings.plans import random_plans
from tests.interleavings.promises import check, drain
from tests.interleavings.report import part
from tests.interleavings.scenes import Facts, daemons, look
from tests.interleavings.schedules import Schedule
from tests.interleavings.theatre import Daemon, Theatre

LOOK_AGAIN_EVERY = 25
Part = tuple[str, int]
"""A writer's name and which of its shapes."""


@define(eq=False)
class Company:
    """Two daemons play. `name` is that of the part of the report."""

    theatre: Theatre
    name: str
    everybody: list[Daemon] = field(init=False)
    fuzz: random.Random | None = None
    """If given: draws plans for each writer, and an order of the rows in the heap."""
    stories: set[int] = field(factory=set)
    played: int = 0
    with_blocked: int = 0
    """Of these, how many in which somebody waited for somebody."""
    _seen: dict[str, Facts] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.everybody = daemons(self.theatre)

    @property
    def daemon(self) -> Daemon:
        """The first one."""
        return self.everybody[0]

    def parts(self, facts: Facts) -> list[Part]:
        """Every shape of every writer."""
        return [(name, n) for name in cases.names() for n in range(len(cases.shapes_of(name, facts, self.daemon)))]

    async def play(self, scene: str, parts: Sequence[Part], schedule: Schedule, *, to_the_end: bool = False) -> int:
        """Play one schedule and check the promises; `to_the_end`: run everything to its end as well.

        The second writer, and the third, are on the other side. Returns the first one's turns.
        """
        theatre, stage = self.theatre, self.theatre.stage
        await theatre.reset(scene, shuffle=None if self.fuzz is None else self.fuzz.randrange(10**6))
        facts = await self._facts(scene)
        for daemon in self.everybody:
            daemon.pictures.clear()
        works = [
            cases.shapes_of(name, facts, self.everybody[min(i, 1)], min(i, 1))[shape]
            for i, (name, shape) in enumerate(parts)
        ]
        stage.story.append(f"scene {scene}, schedule {''.join(map(str, schedule))}")
        actors = []
        blocked = stage.blocked
        for i, work in enumerate(works):
            store = self.everybody[min(i, 1)].store
            opening = "" if self.fuzz is None else random_plans(self.fuzz)
            name = f"{'ABC'[i]} {work}"
            actors.append(stage.start(name, store, work.call, stepped=work.stepped, opening=opening))
            await stage.settle()
        for turn in schedule:
            if actors[turn].parked is not None:
                await stage.turn(actors[turn])
        await stage.finish()
        self.stories.add(hash(tuple(stage.story[1:])))
        await check(theatre)
        self.played += 1
        self.with_blocked += stage.blocked > blocked
        part(self.name).count(
            interleavings=1,
            transactions=len(actors),
            **{"with somebody blocked": stage.blocked > blocked},
        )
        if to_the_end or self.played % parameters.DRAIN_EVERY == 0:
            await drain(theatre, self.everybody[0])
            part(self.name).count(**{"run to the end": 1})
        return actors[0].turns

    def check_they_met(self, share: float) -> None:
        """In at least this share of the plays somebody waited: writers that never meet show nothing."""
        met = f"{self.with_blocked} of {self.played} plays"
        assert self.with_blocked >= share * self.played > 0, f"somebody waited in {met}"

    async def _facts(self, scene: str) -> Facts:
        """A scene that was just set up is the same each time: it is read once, and now and then to see that it is."""
        if scene not in self._seen or self.played % LOOK_AGAIN_EVERY == 0:
            facts = await look(self.theatre)
            before = self._seen.setdefault(scene, facts)
            assert before.plain() == facts.plain(), f"{scene} was not set up as before"
        return self._seen[scene].copy()

    async def turns(self, scene: str, one: Part) -> int:
        """How many turns a writer takes alone in a scene, once what it keeps in memory is warm."""
        await self.play(scene, [one], ())
        return await self.play(scene, [one], ())
