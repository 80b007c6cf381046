"""The attempts of one source that share processes, and the runners they share."""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import zip_longest
from typing import Protocol

import trio
from attrs import define, evolve, field, frozen

from scheduler.executors import job
from scheduler.executors.attempts import TIMEOUT_MARGIN, Desk, Intent, Limits, killed_by
from scheduler.executors.cradle import Cradle
from scheduler.executors.parent import SourceKey
from scheduler.executors.reuse_attempt import Phase, SharedAttempt
from scheduler.executors.reuse_runner import Runner
from scheduler.executors.reuse_words import Finished
from scheduler.model import Outcome, OutcomeKind, StartAnswer, Workload

_AHEAD = 4
"""Attempts in one runner, the one that runs included."""
_HELD_UP_SECONDS = 0.05


@frozen(kw_only=True)
class Terms:
    """How long a runner serves."""

    attempts: int = 1000
    growth_bytes: int = 256 * 1024 * 1024
    """By how much its peak memory may grow."""
    idle_seconds: float = 30.0


class Pool(Protocol):
    """What all lanes of a worker have in common."""

    desk: Desk
    limits: Limits
    terms: Terms
    processors: int

    def take(self, key: SourceKey) -> Cradle: ...
    def start_soon(self, work: Callable[[], Awaitable[None]]) -> None: ...
    def arm(self, at: float) -> None: ...
    def report(self, outcomes: list[Outcome]) -> None: ...
    def refused(self, token: str) -> None: ...


@define(eq=False, kw_only=True)
class Lane:
    """The attempts and runners of one source."""

    key: SourceKey
    pool: Pool
    waiting: deque[SharedAttempt] = field(factory=deque)
    runners: list[Runner] = field(factory=list)
    attempts: int = 0
    """In hand: not over."""

    # ---- attempts

    def accept(self, workload: Workload) -> SharedAttempt:
        """Run it, or ask for its start first."""
        started = workload.inputs is not None
        attempt = SharedAttempt(
            workload=workload,
            owner=self,
            phase=Phase.WAITING if started else Phase.ASKING,
            log_bytes=self.pool.limits.log_bytes,
        )
        self.attempts += 1
        if started:
            self.waiting.append(attempt)
            self.dispatch()
        else:
            # Which process it will be shows only when it is free; until then ours stands for it.
            self.pool.desk.ask_start(workload.token, os.getpid())
        return attempt

    def answered(self, attempt: SharedAttempt, answer: StartAnswer) -> None:
        """The daemon's word about the start."""
        if attempt.phase is not Phase.ASKING:
            return
        if not answer.accepted:
            self._over(attempt)
            self.pool.refused(attempt.workload.token)
            return
        attempt.workload = evolve(attempt.workload, inputs=answer.inputs)
        attempt.phase = Phase.WAITING
        self.waiting.append(attempt)
        self.dispatch()

    def stop(self, attempt: SharedAttempt, intent: Intent) -> None:
        """End it; the first reason stays."""
        if attempt.intent is not None or attempt.phase is Phase.OVER:
            return
        attempt.intent = intent
        runner = self._runner_of(attempt)
        if runner is not None:
            self._take_back(runner)
        if attempt.phase is Phase.SENT:
            assert runner is not None
            runner.hang_up()
            runner.read_now()
            # Now it is the one that runs, or it has just ended, and then nothing runs there.
            if runner.sent:
                self.pool.start_soon(runner.end)
        else:
            self.pool.desk.withdraw(attempt.workload.token)
            if attempt.phase is Phase.WAITING:
                self.waiting.remove(attempt)
            self._report([(attempt, attempt.outcome_of_intent(intent))])
        self.dispatch()

    def _runner_of(self, attempt: SharedAttempt) -> Runner | None:
        return next((one for one in self.runners if attempt in one.sent), None)

    def _report(self, ends: Iterable[tuple[SharedAttempt, Outcome]], *, seconds: Iterable[float] = ()) -> None:
        outcomes = []
        for (attempt, outcome), took in zip_longest(ends, seconds):
            self._over(attempt)
            attempt.close_log(outcome, took)
            outcomes.append(outcome)
        if outcomes:
            self.pool.report(outcomes)

    def _over(self, attempt: SharedAttempt) -> None:
        attempt.phase = Phase.OVER
        self.attempts -= 1

    # ---- who runs them

    def dispatch(self) -> None:
        """Send what waits to runners that have room, and start runners while there are too few."""
        while self.waiting:
            try:
                runner = self._find_room()
                if runner is None or not runner.send(self.waiting[0]):
                    break
            except OSError as error:  # no descriptors left
                attempt = self.waiting.popleft()
                message = f"no process could be prepared: {error}"
                self._report([(attempt, attempt.outcome(OutcomeKind.LOST, "worker", message))])
                continue
            self.waiting.popleft()
            self._keep_time_for(runner)

    def _find_room(self) -> Runner | None:
        serving = [one for one in self.runners if not one.is_leaving]
        idle = [one for one in serving if not one.sent]
        if idle:
            return max(idle, key=lambda one: one.since)  # the others may leave some day
        if len(serving) < self.pool.processors:
            try:
                return self._start_runner()
            except OSError:
                if not serving:
                    raise
        now = trio.current_time()
        able = [one for one in serving if len(one.sent) < _AHEAD and not _is_held_up(one, now)]
        return min(able, key=lambda one: len(one.sent), default=None)

    def _start_runner(self) -> Runner:
        """Raises OSError when there are no descriptors left."""
        cradle = self.pool.take(self.key)
        try:
            runner = Runner(
                cradle=cradle,
                keeper=self,
                result_bytes=self.pool.limits.result_bytes,
                kill_grace=self.pool.limits.kill_grace,
            )
        except OSError:
            cradle.close()
            raise
        terms = self.pool.terms
        runner.set_up(job.Service(attempts=terms.attempts, growth_bytes=terms.growth_bytes))
        self.runners.append(runner)
        self.pool.start_soon(runner.attend)
        return runner

    def _take_back(self, runner: Runner) -> None:
        self.waiting.extendleft(reversed(runner.take_back()))

    # ---- what runners say

    def settled(self, runner: Runner, ends: list[tuple[SharedAttempt, Finished]]) -> None:
        """Attempts have ended there: report them, and give it the next ones."""
        outcomes = [(attempt, attempt.outcome_of(said.ended)) for attempt, said in ends]
        self._report(outcomes, seconds=[said.seconds for _, said in ends])
        if runner.is_leaving:
            self._take_back(runner)
            runner.hang_up()
        self.dispatch()
        if runner.sent:
            self._keep_time_for(runner)
        else:
            self.pool.arm(runner.since + self.pool.terms.idle_seconds)

    def confused(self, runner: Runner) -> None:
        """What it says can no longer be trusted: end it."""
        self._take_back(runner)
        runner.hang_up()
        self.pool.start_soon(runner.end)
        self.dispatch()

    def orphaned(self, runner: Runner) -> None:
        """Its parent is dead, so it is ended: what it runs is lost without any fault of its own."""
        if runner.is_ready:
            self._take_back(runner)
        runner.hang_up()
        runner.read_now()
        for attempt in runner.sent:
            why = runner.cradle.orphaned or ""
            attempt.intent = attempt.intent or Intent(kind=OutcomeKind.LOST, reason="worker", message=why)
        self.dispatch()

    def gone(self, runner: Runner) -> None:
        """What it had begun shares its fate; what it had not begun runs elsewhere."""
        self.runners.remove(runner)
        back = runner.take_back()
        begun = list(runner.sent)
        runner.sent.clear()
        cradle = runner.cradle
        if cradle.import_failure is not None:
            message = f"the DAG file does not import: {cradle.import_failure}"
            ends = [(one, one.outcome(OutcomeKind.FAILED, "import", message)) for one in [*begun, *back, *self.waiting]]
            self.waiting.clear()
            for one, _ in ends:
                one.write(bytes(cradle.parent.tail))
            self._report(ends)
        elif not runner.is_ready:
            # Another might fare no better, for ever: whoever counts losses shall decide.
            why = cradle.orphaned or f"its process ended before the start (status {cradle.exit_code})"
            ends = [(one, one.outcome(OutcomeKind.LOST, "worker", why)) for one in [*begun, *back]]
            self._report(ends)
        else:
            self.waiting.extendleft(reversed(back))
            self._report([(one, _fate(one, cradle)) for one in begun])
        self.dispatch()

    # ---- time

    def _keep_time_for(self, runner: Runner) -> None:
        """Have `look` called when something about it may be due."""
        now = trio.current_time()
        if len(runner.sent) > 1 or self.waiting:
            self.pool.arm(now + _HELD_UP_SECONDS)
        timeout = runner.sent[0].workload.execution_timeout
        if timeout is not None:
            self.pool.arm(max(runner.since + timeout + TIMEOUT_MARGIN, now + _HELD_UP_SECONDS))

    def look(self, now: float) -> None:
        """See to what is due: time-outs, idle runners, attempts behind others that take long."""
        for runner in list(self.runners):
            if not runner.sent:
                if now >= runner.since + self.pool.terms.idle_seconds and not runner.is_leaving:
                    runner.hang_up()
                elif not runner.is_leaving:
                    self.pool.arm(runner.since + self.pool.terms.idle_seconds)
                continue
            first = runner.sent[0]
            timeout = first.workload.execution_timeout
            if timeout is not None and runner.is_ready and now >= runner.since + timeout + TIMEOUT_MARGIN:
                message = f"timed out after {timeout:g} s"
                self.stop(first, Intent(kind=OutcomeKind.FAILED, reason="timeout", message=message))
        self._relieve(now)
        for runner in self.runners:
            if runner.sent:
                self._keep_time_for(runner)

    def _relieve(self, now: float) -> None:
        """Take back what is behind a long attempt; with nobody to give it to, have more runners."""
        for runner in self.runners:
            if len(runner.sent) > 1 and _is_held_up(runner, now):
                self._take_back(runner)
        self.dispatch()
        serving = [one for one in self.runners if not one.is_leaving]
        if not all(_is_held_up(one, now) for one in serving):
            return
        for _ in range(max(1, len(serving))):
            try:
                if not self.waiting or not self._start_runner().send(self.waiting[0]):
                    return
            except OSError:
                return  # those that are there will run it
            self.waiting.popleft()


def _is_held_up(runner: Runner, now: float) -> bool:
    return bool(runner.sent) and runner.is_ready and now >= runner.since + _HELD_UP_SECONDS


def _fate(attempt: SharedAttempt, cradle: Cradle) -> Outcome:
    """Of the attempt in which its runner ended."""
    code = cradle.exit_code
    if attempt.intent is not None:
        return attempt.outcome_of_intent(attempt.intent, exit_code=code)
    if code is None:
        return attempt.outcome(OutcomeKind.LOST, "worker", cradle.orphaned or "nobody saw its end")
    if code < 0:
        return attempt.outcome(OutcomeKind.FAILED, "signal", killed_by(-code), exit_code=code)
    message = f"the process ended with status {code} before the task returned (os._exit?)"
    return attempt.outcome(OutcomeKind.FAILED, "exit", message, exit_code=code)
