"""Level M: the lock order on a pure model, with every production writer, drawn rows and drawn turns."""

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from scheduler.store.locks import Lock
from tests.stress.model import ACTORS, BAD, Deadlock, Model, Take, partners, production
from tests.stress.report import SEED, number, tell

pytestmark = pytest.mark.stress

EXAMPLES = number("MODEL_EXAMPLES", 2_000)
STEPS = 20
BAD_STEPS = 40
WITHIN = 500
BATCHES = 5
"""Each with a seed of its own, as in test_known_bad.py."""


def machine(makers, favourites=()):  # type: ignore[no-untyped-def]
    """A state machine over these makers of programs; `favourites` are four fifths of all that begin."""
    names = sorted(makers)
    choice = st.sampled_from(names)
    if favourites:
        choice = st.sampled_from([*names, *sorted(favourites) * (4 * len(names) // len(favourites))])
    masks = st.lists(st.sampled_from([7, 6, 5, 3, 4, 2, 1]), min_size=4, max_size=4)  # shrinks, and leans, to all rows
    skipping = st.just(0) | st.integers(0, 15)

    class Machine(RuleBasedStateMachine):
        """Up to four transactions; a turn is one lock."""

        played = turns = waits = 0

        def __init__(self) -> None:
            super().__init__()
            type(self).played += 1
            self.model = Model()

        @initialize(names=st.lists(choice, min_size=ACTORS, max_size=ACTORS), masks=st.lists(masks, min_size=ACTORS))
        def all_begin(self, names: list[str], masks: list[list[int]]) -> None:
            for who, name in enumerate(names):
                self.model.begin(who, name, makers[name](masks[who], 0))

        @rule(name=choice, masks=masks, skips=skipping)
        def begin(self, name: str, masks: list[int], skips: int) -> None:
            free = [n for n in range(ACTORS) if n not in self.model.actors]
            if free:
                self.model.begin(free[0], name, makers[name](masks, skips))

        @rule(turns=st.lists(st.integers(0, ACTORS - 1), min_size=10, max_size=10))
        def turn(self, turns: list[int]) -> None:
            for who in turns:
                self.model.step(who)
            type(self).turns += len(turns)

        @rule(who=st.integers(0, 4 * ACTORS - 1), how=st.sampled_from(["is cancelled", "loses its connection"]))
        def end(self, who: int, how: str) -> None:
            self.model.end(who, how)  # mostly nobody: else none would get far

        def teardown(self) -> None:
            type(self).waits += self.model.waits

    return Machine


def play(kind, *, examples: int, steps: int = STEPS, seeded: int = SEED) -> Deadlock | None:  # type: ignore[no-untyped-def]
    config = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(seed(seeded)(kind), settings=config)
    except Deadlock as error:
        return error
    return None


def test_no_cycle_of_waits_among_production_writers() -> None:
    makers = production()
    kind = machine(makers)
    found = play(kind, examples=EXAMPLES)
    tell(
        "model",
        f"{len(makers)} production writers, {kind.played} examples, {kind.turns} turns, {kind.waits} waits:"
        f" {'a cycle' if found else 'no cycle'}",
    )
    assert found is None, found
    assert kind.played >= EXAMPLES
    assert kind.waits >= EXAMPLES / 2, "they must get into each other's way, or nothing is shown"


@pytest.mark.parametrize("name", BAD)
def test_a_known_bad_writer_is_found_in_the_model(name: str) -> None:
    bad = {f"{name} ({n})": maker for n, maker in enumerate(BAD[name])}
    kind = machine(production() | bad, favourites=[*bad, *partners(name)])
    found = None
    for n in range(BATCHES):
        found = found or play(kind, examples=WITHIN // BATCHES, steps=BAD_STEPS, seeded=SEED + n)
    assert found is not None, f"not found in {kind.played} examples"
    tell("model", f"{name}: found after {kind.played} examples")


def test_every_writer_asks_for_what_it_declares() -> None:
    for name, maker in production().items():
        steps = [step for step in maker([15] * 4, 0) if isinstance(step, Take)]
        places = [step.key for step in steps]
        assert places == sorted(places), name
        assert {place // 10 * 10 for place, _ in places} <= {one.value for one in Lock}
