"""Plays schedules of several writers in a scene, and counts what it did."""

from collections.abc import Sequence

from attrs import define, field

from tests.interleavings import cases, parameters
from tests.interleavings.promises import check, drain
from tests.interleavings.report import part
from tests.interleavings.scenes import daemons, look
from tests.interleavings.schedules import Schedule
from tests.interleavings.theatre import Daemon, Theatre

Part = tuple[str, int]
"""A writer's name and which of its shapes."""


@define(eq=False)
class Company:
    """Two daemons play. `name` is that of the part of the report."""

    theatre: Theatre
    name: str
    everybody: list[Daemon] = field(init=False)
    stories: set[int] = field(factory=set)
    played: int = 0

    def __attrs_post_init__(self) -> None:
        self.everybody = daemons(self.theatre)

    async def play(self, scene: str, parts: Sequence[Part], schedule: Schedule, *, to_the_end: bool = False) -> int:
        """Play one schedule and check the promises; `to_the_end`: run everything to its end as well.

        The second writer, and the third, are on the other side. Returns the first one's turns.
        """
        theatre, stage = self.theatre, self.theatre.stage
        await theatre.reset(scene)
        facts = await look(theatre)
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
            actors.append(stage.start(f"{'ABC'[i]} {work}", store, work.call, stepped=work.stepped))
            await stage.settle()
        for turn in schedule:
            if actors[turn].parked is not None:
                await stage.turn(actors[turn])
        await stage.finish()
        self.stories.add(hash(tuple(stage.story[1:])))
        await check(theatre)
        self.played += 1
        part(self.name).count(
            interleavings=1,
            transactions=len(actors),
            **{"with somebody blocked": stage.blocked > blocked},
        )
        if to_the_end or self.played % parameters.DRAIN_EVERY == 0:
            await drain(theatre, self.everybody[0])
            part(self.name).count(**{"run to the end": 1})
        return actors[0].turns

    async def turns(self, scene: str, one: Part) -> int:
        """How many turns a writer takes alone in a scene, once what it keeps in memory is warm."""
        await self.play(scene, [one], ())
        return await self.play(scene, [one], ())
