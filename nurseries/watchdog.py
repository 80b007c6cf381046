"""Feeding the service manager's watchdog with progress: a bare timer would prove nothing."""

import logging
from collections.abc import Callable
from typing import Never

import trio

from nurseries.notify import Notifier

_log = logging.getLogger(__name__)

_RETRY_S = 1.0


async def feed_watchdog(notifier: Notifier, is_live: Callable[[], bool], *, lag_limit_s: float = 1.0) -> Never:
    """Every third of the watchdog's patience, tell it that there is progress; unless there is none.

    Progress is a loop that runs this less than `lag_limit_s` late, and `is_live` (usually
    `Supervisor.is_live`). While it is missing, look again every second. Without a watchdog: sleep.
    """
    if notifier.watchdog_interval is None:
        await trio.sleep_forever()
    interval = notifier.watchdog_interval
    pause, was_fed = interval, True
    while True:
        due = trio.current_time() + pause
        await trio.sleep_until(due)
        lag = trio.current_time() - due
        if lag < lag_limit_s and is_live():
            notifier.watchdog()
            pause, was_fed = interval, True
        else:
            if was_fed:
                _log.warning("the watchdog is not fed: the loop is %.1f s late, or a routine is stuck", lag)
            pause, was_fed = min(_RETRY_S, interval), False
