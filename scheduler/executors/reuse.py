"""`isolation="reuse"`: a few long-lived runners for each source, each running one attempt at a time, many in turn.

A *runner* is a task process like any other, forked from the warm parent in a session of its own, that was told to run
many attempts (`reuse_process`). No fork, no exit and nobody in between: the worker puts a job into the runner's
socket, the runner says how it ended. A *lane* has the runners of one source, and the attempts that wait for one.

* A runner is given its next attempts ahead, a few at most. What it has not begun the worker can take back out of the
  socket, and nobody else has it then (`reuse_words`). So when a runner dies, is ended or is held up by a long attempt,
  the others run elsewhere: exactly the one that had begun shares its fate.
* Nothing is sent before its start is committed. Ending an attempt ends its runner, after everything behind it was
  taken back, so that a signal can meet no other attempt.
* There are as many runners as processors; when all of them are held up, more, up to one for each attempt in hand.
* A runner leaves after so many attempts, when its memory has grown, when code was interrupted in it, when something it
  started cannot be ended, and when there was nothing to do for a while.
"""

import os
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field

from scheduler.executors.attempts import Desk, Limits
from scheduler.executors.cradle import Cradle
from scheduler.executors.parent import SourceKey
from scheduler.executors.reuse_attempt import SharedAttempt
from scheduler.executors.reuse_lane import Lane, Terms
from scheduler.model import Outcome, Workload

_NEVER = float("inf")


@define(eq=False, kw_only=True)
class ReusePool:
    """The lanes of a worker, and one clock for all of them."""

    desk: Desk
    limits: Limits
    terms: Terms
    take: Callable[[SourceKey], Cradle]
    """A process of this source that waits for its first frame."""
    report: Callable[[list[Outcome]], None]
    refused: Callable[[str], None]
    """Called with the token of an attempt that must not start."""
    processors: int = field(factory=lambda: len(os.sched_getaffinity(0)))
    _lanes: dict[SourceKey, Lane] = field(factory=dict)
    _nursery: trio.Nursery | None = None
    _armed: float = _NEVER
    _earlier: trio.Event = field(factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after runners until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                with trio.move_on_at(self._armed):
                    await self._earlier.wait()
                self._earlier = trio.Event()
                now = trio.current_time()
                if now < self._armed:
                    continue  # it was only set to an earlier time
                self._armed = _NEVER
                for key, lane in list(self._lanes.items()):
                    lane.look(now)
                    if not lane.attempts and not lane.runners:
                        del self._lanes[key]

    def accept(self, workload: Workload) -> SharedAttempt:
        """Run it in a process it shares, now or when its start is granted."""
        key = SourceKey(workload.file, workload.source_path, workload.source_hash)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key=key, pool=self)
        return lane.accept(workload)

    # ---- for lanes

    def arm(self, at: float) -> None:
        """Have every lane look at what is due, at this time at the latest."""
        if at < self._armed:
            self._armed = at
            self._earlier.set()

    def start_soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this beside everything else."""
        assert self._nursery is not None
        self._nursery.start_soon(work)
