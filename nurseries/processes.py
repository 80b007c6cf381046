"""Child processes: one for as long as a block lasts, one kept running, one run to its end.

`child.py` holds the first, `completion.py` the last; what a child does about its lifeline is in
`lifeline.py`.
"""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Never

import trio

from nurseries.backoff import Budget, Spending
from nurseries.child import DEVNULL, Child, ChildSpec, open_child
from nurseries.completion import OUTPUT_LIMIT, Completed, run_to_end
from nurseries.errors import BudgetExhausted, ChildFailed
from nurseries.lifeline import wait_for_parent_death, watch_lifeline

__all__ = [
    "DEVNULL",
    "OUTPUT_LIMIT",
    "Budget",
    "Child",
    "ChildSpec",
    "Completed",
    "keep_running",
    "open_child",
    "run_to_end",
    "wait_for_parent_death",
    "watch_lifeline",
]

_log = logging.getLogger(__name__)


async def keep_running(
    spec: ChildSpec | Callable[[], ChildSpec],
    *,
    budget: Budget | None = None,
    on_start: Callable[[Child], None] | None = None,
    on_exit: Callable[[Child, int], None] | None = None,
    task_status: trio.TaskStatus[Child] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Keep a child process running: whenever it ends, however, start it again after a back-off.

    `spec` may be a function, called before each start. `on_start` and `on_exit` are synchronous. Started with
    the first child, so `nursery.start` raises what `open_child` raises if there never was one; later starts
    that fail are failures like any other. Raises `BudgetExhausted`.
    """
    make_spec = spec if callable(spec) else lambda: spec
    spending: Spending | None = None
    started = False
    while True:
        current = make_spec()
        spending = spending or Spending(current.name, budget or Budget())
        problem: Exception | None = None
        async with AsyncExitStack() as stack:
            try:
                child = await stack.enter_async_context(open_child(current))
            except (OSError, ChildFailed) as error:
                if not started:
                    raise
                problem, why = error, str(error)
            else:
                if on_start is not None:
                    on_start(child)
                if not started:
                    started = True
                    task_status.started(child)
                code = await child.wait()
                why = f"exit code {code}" if code >= 0 else f"signal {-code}"
                if on_exit is not None:
                    on_exit(child, code)
        try:
            delay = spending.spend(trio.current_time(), why)
        except BudgetExhausted as exhausted:
            raise exhausted from problem
        await trio.lowlevel.checkpoint_if_cancelled()  # on_exit may have decided that this was the end
        _log.warning("%s ended with %s; starting it again in %.1f s", current.name, why, delay)
        await trio.sleep(delay)
