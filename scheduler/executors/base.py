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


@frozen(kw_only=True)
class Berth:
    """Room for attempts at one connected worker."""

    worker_id: str
    hostname: str
    free: int
    """How many more attempts it takes now; at least 1."""


class Executor(Protocol):
    """Somewhere attempts run. All methods are called from the trio thread and return at once.

    The order of events for an attempt: `submit`, a StartRequest in `starts`, `answer`, an Outcome in
    `outcomes`, `acknowledge`. User code runs only after an accepting answer. An attempt that is submitted as
    started (`Workload.inputs` and `Workload.worker` are set, its start is committed) is asked for by nobody:
    `submit`, an Outcome, `acknowledge`. Requests and outcomes may come
    more than once, and an outcome may come without a start (the attempt was lost or cancelled before): the
    fence decides, not the order.
    """

    starts: Inbox[StartRequest]
    outcomes: Inbox[Outcome]

    def free_slots(self) -> int:
        """How many more attempts could be submitted now."""

    def berths(self) -> list[Berth]:
        """Connected workers that take work now, the one with most room first."""

    def holds(self, token: str) -> bool:
        """Whether a connected worker has this attempt, or its outcome waits to be committed."""

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Hand over attempts whose claims are committed; dropped when nobody is there (rescue finds them).

        A started one goes to its worker and no other; when that one is not connected, an Outcome (lost, reason
        "worker") is put into `outcomes` at once. So it is when the worker calls again and has never got it.
        """

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
