"""One attempt that shares its process with others, as the worker sees it."""

import time
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from attrs import define

from scheduler.executors.attempts import Intent
from scheduler.executors.job import Ended
from scheduler.executors.logfile import LogFile
from scheduler.model import Outcome, OutcomeKind, StartAnswer, Workload


class Phase(Enum):
    """How far it has come."""

    ASKING = "asking"
    """Its start is not committed yet."""
    WAITING = "waiting"
    """It may start, and no runner has been given it."""
    SENT = "sent"
    """A runner has it, or will take it next."""
    OVER = "over"


class Owner(Protocol):
    """Who decides about it: the lane of its source."""

    def answered(self, attempt: "SharedAttempt", answer: StartAnswer) -> None: ...
    def stop(self, attempt: "SharedAttempt", intent: Intent) -> None: ...


@define(eq=False, kw_only=True)
class SharedAttempt:
    """From its submission to its outcome; unlike `attempts.Attempt` it has no trio task of its own."""

    workload: Workload
    owner: Owner
    phase: Phase
    log_bytes: int
    intent: Intent | None = None
    pid: int = 0
    """Of the runner it was sent to, as soon as that is known."""
    sent_at: float = 0.0
    """Seconds since the epoch."""
    _log: LogFile | None = None

    @property
    def is_over(self) -> bool:
        """Its outcome was reported, or its start refused."""
        return self.phase is Phase.OVER

    def answer(self, answer: StartAnswer) -> None:
        """The daemon's word about the start."""
        self.owner.answered(self, answer)

    def stop(self, intent: Intent) -> None:
        """End it; the first reason stays."""
        self.owner.stop(self, intent)

    # ---- its log

    def write(self, data: bytes) -> None:
        """Into its log, which begins with our line when it does not exist yet."""
        if self._log is None:
            self._log = LogFile(self.workload.log_path, limit=self.log_bytes)
            one = self.workload
            self._say(
                f"{_stamp(self.sent_at)} asyncsched: {one.dag_id}.{one.task_id} starts: run {one.run_id}, "
                f"try {one.try_number} of {one.max_tries + 1}, pid {self.pid or 'unknown'}, which others share"
            )
        self._log.write(data)

    def close_log(self, outcome: Outcome, seconds: float | None) -> None:
        """With a line about its end, unless there is nothing to say: it wrote nothing, and all is well."""
        if self._log is None:
            if outcome.kind is OutcomeKind.SUCCESS:
                return
            self.write(b"")
        took = "" if seconds is None else f" after {seconds:.3f} s"
        told = f": {outcome.message}" if outcome.message else ""
        self._say(f"{_stamp(time.time())} asyncsched: {outcome.kind}{took}{told}")
        if self._log is not None:
            self._log.close()

    def _say(self, text: str) -> None:
        if self._log is not None:
            self._log.write(f"{text}\n".encode("utf-8", "backslashreplace"))

    # ---- its outcome

    def outcome_of(self, ended: Ended) -> Outcome:
        """What is reported of what its runner has said."""
        if self.intent is not None and ended.kind is OutcomeKind.FAILED:
            return self.outcome_of_intent(self.intent)
        return Outcome(
            token=self.workload.token,
            kind=ended.kind,
            result=ended.result,
            decision=ended.decision,
            retryable=ended.retryable,
            message=ended.message,
            reason=ended.reason,
            pid=self.pid or None,
        )

    def outcome_of_intent(self, intent: Intent, *, exit_code: int | None = None) -> Outcome:
        """What is reported when the worker has ended it."""
        return self.outcome(intent.kind, intent.reason, intent.message, exit_code=exit_code)

    def outcome(self, kind: OutcomeKind, reason: str, message: str, *, exit_code: int | None = None) -> Outcome:
        """What the worker itself has to say."""
        return Outcome(
            token=self.workload.token,
            kind=kind,
            reason=reason,
            message=message,
            exit_code=exit_code,
            pid=self.pid or None,
        )


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
