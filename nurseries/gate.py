"""The gate at which routines wait while something everybody needs is away. One prober opens it again."""

import logging
from collections.abc import Awaitable, Callable
from typing import Never

import trio

from nurseries.backoff import Budget
from nurseries.errors import Weather

_log = logging.getLogger(__name__)

_PROBING = Budget(restarts=None, backoff_min_s=0.1, backoff_max_s=2.0)


class Gate:
    """Open until somebody meets `Unavailable`; then closed until one probe succeeds.

    `probe` returns if the thing is there and raises `Weather` while it is away; it bounds itself. However
    many wait, only one asks. The prober runs as long as the supervisor that was given the gate.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], *, backoff: Budget = _PROBING) -> None:
        self._probe = probe
        self._backoff = backoff
        self._opened = trio.Event()
        self._opened.set()
        self._closed = trio.Event()
        self._closed_at: float | None = None
        self._asked_at: float | None = None
        self._has_prober = False
        self.closings = 0
        self.why = ""

    @property
    def is_open(self) -> bool:
        """Whether the way is free, as far as anybody knows."""
        return self._opened.is_set()

    def closed_for(self) -> float:
        """Seconds since the gate was closed; 0 while it is open."""
        return 0.0 if self._closed_at is None else trio.current_time() - self._closed_at

    def asking_for(self) -> float:
        """Seconds the current probe has been under way; 0 between probes. A stuck prober shows here."""
        return 0.0 if self._asked_at is None else trio.current_time() - self._asked_at

    async def wait_open(self) -> None:
        """Return when the gate is open; at once if it is."""
        await self._opened.wait()

    def close(self, why: BaseException | str) -> None:
        """Close the gate, because of `why`.

        The spell is logged once, here; closing a closed gate does nothing.
        """
        if not self.is_open:
            return
        self.closings += 1
        self.why = str(why)
        self._closed_at = trio.current_time()
        self._opened = trio.Event()
        self._closed.set()
        _log.warning("waiting until it is back: %s", self.why)

    async def run(self) -> Never:
        """Probe whenever the gate is closed. Raises what the probe raises, unless it is `Weather`."""
        assert not self._has_prober, "a gate has one prober"
        self._has_prober = True
        try:
            while True:
                await self._closed.wait()
                await self._probe_until_back()
                _log.info("back after %.1f s", self.closed_for())
                self._closed_at = None
                self._closed = trio.Event()
                self._opened.set()
        finally:
            self._has_prober = False

    async def _probe_until_back(self) -> None:
        failures = 0
        while True:
            self._asked_at = trio.current_time()
            try:
                await self._probe()
            except Weather as error:
                self.why = str(error)
                failures += 1
            else:
                return
            finally:
                self._asked_at = None
            await trio.sleep(self._backoff.delay(failures))

    def __repr__(self) -> str:
        return "<Gate open>" if self.is_open else f"<Gate closed: {self.why}>"
