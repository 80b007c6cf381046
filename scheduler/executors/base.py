"""What the routines need to know of an executor."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

from attrs import frozen

from scheduler.executors.inbox import Inbox
from scheduler.model import Outcome, StartAnswer, StartRequest, Workload


@frozen(kw_only=True)
class Topics:
    """What an executor pokes when it has news."""

    start_requested: Hashable = "start_requested"
    outcome_reported: Hashable = "outcome_reported"
    slot_freed: Hashable = "slot_freed"
    worker_changed: Hashable = "worker_changed"


@frozen(kw_only=True)
class WorkerInfo:
    """One connected worker."""

    worker_id: str
    pid: int
    hostname: str
    slots: int
    running: tuple[str, ...]
    """Tokens of the attempts it was given and has not reported the end of."""
    last_heard: float
    """`time.monotonic()` of its last frame; it sends one at least every five seconds."""
    draining: bool
    """It takes no new work."""


class Executor(Protocol):
    """Somewhere attempts run. All methods are called from the trio thread and return at once.

    The order of events for an attempt: `submit`, a StartRequest in `starts`, `answer`, an Outcome in
    `outcomes`, `acknowledge`. User code runs only after an accepting answer. Requests and outcomes may come
    more than once, and an outcome may come without a start (the attempt was lost or cancelled before): the
    fence decides, not the order.
    """

    starts: Inbox[StartRequest]
    outcomes: Inbox[Outcome]

    def free_slots(self) -> int:
        """How many more attempts could be submitted now."""

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Hand over attempts whose claims are committed; dropped when nobody is there (rescue finds them)."""

    def answer(self, answers: Sequence[StartAnswer]) -> None:
        """Let attempts start, or end them before they have run."""

    def acknowledge(self, tokens: Iterable[str]) -> None:
        """These outcomes are committed (or refused for good): they need not be reported again."""

    def cancel(self, token: str, reason: str) -> None:
        """End an attempt; an Outcome with reason "cancelled" follows unless it had ended by itself."""

    def warm(self, files: Iterable[tuple[str, str, str]]) -> None:
        """Hint: attempts of these (file, source_path, source_hash) are likely soon."""

    def workers(self) -> list[WorkerInfo]:
        """Who is connected."""
