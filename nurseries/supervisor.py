"""One nursery, many independent routines: each at its own pace, each failing for itself.

The promises N1 to N11 of `README.md` are kept here and in `gate.py`.
"""

import logging
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Never

import trio
from attrs import define, field, frozen

from nurseries.backoff import Budget, Spending
from nurseries.errors import BudgetExhausted, Unavailable, Weather
from nurseries.gate import Gate
from nurseries.instrument import Instrument
from nurseries.routine import Progress, Routine, name_of, step_limit_of
from nurseries.switchboard import Switchboard, Wakeup

__all__ = ["Budget", "Gate", "Phase", "RoutineStatistics", "Supervisor"]

_log = logging.getLogger(__name__)

# How much later than planned a waiting routine may wake before it counts as stuck, and the longest single
# probe.
_SLACK_S = 10.0
_PROBE_LIMIT_S = 30.0

_WEATHER = Budget(restarts=None)


class Phase(StrEnum):
    """What a routine is doing right now."""

    STARTING = "starting"
    STEPPING = "stepping"
    WAITING = "waiting"
    BACKING_OFF = "backing off"
    PARKED = "parked"


@frozen(kw_only=True)
class RoutineStatistics:
    """How a routine fares. Durations are in seconds.

    `steps` counts those that succeeded, `failures` those that cost budget, `weathers` those that did not.
    `last_error` is the last one of either kind, and stays.
    """

    name: str
    phase: Phase
    phase_s: float
    steps: int
    failures: int
    weathers: int
    last_step_s: float | None
    longest_step_s: float | None
    last_error: str | None
    is_late: bool


@define(kw_only=True, eq=False)
class _Member:
    """A routine and what the supervisor remembers of it."""

    routine: Routine
    name: str
    wakeup: Wakeup
    spending: Spending
    step_limit_s: float
    phase: Phase = Phase.STARTING
    since: float = 0.0
    patience_s: float = field(default=float("inf"))
    steps: int = 0
    weathers: int = 0
    weathers_in_a_row: int = 0
    last_step_s: float | None = None
    longest_step_s: float | None = None
    last_error: str | None = None

    def enter(self, phase: Phase, patience_s: float) -> None:
        """Begin a phase that should be over after `patience_s`."""
        self.phase, self.since, self.patience_s = phase, trio.current_time(), patience_s


class Supervisor:
    """Runs routines side by side until it is cancelled, or until one of them fails for good."""

    def __init__(
        self,
        routines: Iterable[Routine],
        *,
        switchboard: Switchboard,
        gate: Gate | None = None,
        budget: Budget | None = None,
        instrument: Instrument | None = None,
    ) -> None:
        self._gate = gate
        self._instrument = instrument
        self._running = False
        self.first_pass = trio.Event()
        # Subscribed here, not in run(): a poke between the two must not be lost.
        self._members = [
            _Member(
                routine=routine,
                name=name_of(routine),
                wakeup=switchboard.subscribe(*routine.wakes_on),
                spending=Spending(name_of(routine), budget or Budget()),
                step_limit_s=step_limit_of(routine),
            )
            for routine in routines
        ]
        names = [member.name for member in self._members]
        if len(set(names)) < len(names):
            raise ValueError(f"two routines have the same name: {sorted(names)}")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Run every routine, and the prober of the gate, until cancelled.

        When it ends, nothing of it is left.

        Raises, in an exception group: the `AssertionError` of a step, at once; `BudgetExhausted`, from a
        routine that failed too often.
        """
        assert not self._running, "a supervisor runs once at a time"
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                if self._gate is not None:
                    nursery.start_soon(self._gate.run, name="gate")
                for member in self._members:
                    nursery.start_soon(self._keep, member, name=member.name)
                self._note_first_pass()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._running = False
        raise AssertionError("unreachable")

    def statistics(self) -> tuple[RoutineStatistics, ...]:
        """How every routine fares, in their order."""
        now = trio.current_time()
        return tuple(
            RoutineStatistics(
                name=member.name,
                phase=member.phase,
                phase_s=now - member.since,
                steps=member.steps,
                failures=member.spending.total,
                weathers=member.weathers,
                last_step_s=member.last_step_s,
                longest_step_s=member.longest_step_s,
                last_error=member.last_error,
                is_late=self._is_late(member, now),
            )
            for member in self._members
        )

    def late(self) -> tuple[str, ...]:
        """The routines that have not given a sign of life within their own limit.

        A routine that waits, backs off, or is parked at the gate while the prober still tries, is not late:
        an outage must not look like a stuck program.
        """
        now = trio.current_time()
        return tuple(member.name for member in self._members if self._is_late(member, now))

    def is_live(self) -> bool:
        """Whether everything moves; what a watchdog should ask."""
        return self._running and not self.late()

    def _is_late(self, member: _Member, now: float) -> bool:
        if member.phase is Phase.PARKED:
            return self._gate is not None and self._gate.asking_for() > _PROBE_LIMIT_S
        return now - member.since > member.patience_s

    async def _keep(self, member: _Member) -> Never:
        """Step, wait, step: the one loop that all routines share."""
        while True:
            if self._gate is not None and not self._gate.is_open:
                member.enter(Phase.PARKED, float("inf"))
                await self._gate.wait_open()
            # What was poked until now, the step is about to see.
            member.wakeup.forget()
            try:
                progress = await self._step(member)
            except Exception as error:
                delay = self._judge(member, error)
                member.enter(Phase.BACKING_OFF, delay + _SLACK_S)
                await trio.sleep(delay)
                continue
            self._note_success(member)
            if progress.more:
                await trio.lowlevel.checkpoint()
                continue
            await self._wait(member, progress)

    async def _step(self, member: _Member) -> Progress:
        member.enter(Phase.STEPPING, member.step_limit_s)
        if self._instrument is not None:
            self._instrument.step_started(member.name)
        progress: Progress | None = None
        failure: BaseException | None = None
        try:
            progress = await member.routine.step()
            assert isinstance(progress, Progress), f"{member.name}: a step returns a Progress, not {progress!r}"
        except BaseException as error:
            failure = error
            raise
        finally:
            seconds = trio.current_time() - member.since
            member.last_step_s = seconds
            member.longest_step_s = max(seconds, member.longest_step_s or 0.0)
            if self._instrument is not None:
                self._instrument.step_ended(member.name, seconds=seconds, progress=progress, error=failure)
        return progress

    async def _wait(self, member: _Member, progress: Progress) -> None:
        pause = member.routine.pace.seconds
        if progress.within_seconds is not None:
            pause = min(pause, progress.within_seconds)
        member.enter(Phase.WAITING, pause + _SLACK_S)
        with trio.move_on_after(pause):
            await member.wakeup.wait()

    def _judge(self, member: _Member, error: Exception) -> float:
        """How long to wait after this failure. Raises if there shall be no further step."""
        leaves = list(_leaves(error))
        member.last_error = "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in leaves)
        if any(isinstance(leaf, AssertionError) for leaf in leaves):
            _log.critical("%s: a bug, stopping: %s", member.name, member.last_error)
            raise error
        if all(isinstance(leaf, Weather) for leaf in leaves):
            return self._judge_weather(member, error, leaves)
        try:
            delay = member.spending.spend(trio.current_time(), member.last_error)
        except BudgetExhausted as exhausted:
            raise exhausted from error
        _log.error("%s: failed, next try in %.1f s", member.name, delay, exc_info=error)
        return delay

    def _judge_weather(self, member: _Member, error: Exception, leaves: list[BaseException]) -> float:
        member.weathers += 1
        member.weathers_in_a_row += 1
        if self._gate is not None and any(isinstance(leaf, Unavailable) for leaf in leaves):
            self._gate.close(error)  # which says so once for all
        elif member.weathers_in_a_row == 1:
            _log.warning("%s: backing off: %s", member.name, member.last_error)
        return _WEATHER.delay(member.weathers_in_a_row)

    def _note_success(self, member: _Member) -> None:
        if member.weathers_in_a_row:
            _log.info("%s: goes on after %d failed tries", member.name, member.weathers_in_a_row)
            member.weathers_in_a_row = 0
        member.spending.recover()
        member.steps += 1
        if member.steps == 1:
            self._note_first_pass()

    def _note_first_pass(self) -> None:
        if all(member.steps for member in self._members):
            self.first_pass.set()

    def __repr__(self) -> str:
        return f"<Supervisor of {', '.join(member.name for member in self._members)}>"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups, or the one error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
