"""What user code has noted, read from outside; see programs/stamps.py for how it is written."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from attrs import define, frozen

from bench.daemon import Failed

MS = 1e6
"""Nanoseconds."""
_POLL_S, _POLL_MANY_S, _MANY = 0.005, 0.1, 500
"""How often the file is looked at; reading thousands of lines often would take time from what is measured."""


def now() -> int:
    """The clock of the stamps, in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@frozen
class Stamp:
    """One piece of user code: nanoseconds of CLOCK_MONOTONIC."""

    began: int
    ended: int
    sent: int
    """When it was asked for, where user code knows; 0 otherwise."""


@define
class Stamps:
    """A file of stamps: `take` waits for those that were written since the last time."""

    path: Path
    _at: int = 0
    """Bytes of the file that have been read."""

    def take(
        self, count: int, *, limit_s: float, alive: Callable[[], None] = lambda: None, partly: bool = False
    ) -> list[Stamp]:
        """Wait for so many and return them, ordered by their begin.

        `alive` raises when it makes no sense to wait any longer. `partly`: at the limit return what there is.
        Raises Failed.
        """
        deadline = time.monotonic() + limit_s
        while True:
            found = self._new()
            if len(found) >= count or (partly and time.monotonic() > deadline):
                break
            if time.monotonic() > deadline:
                raise Failed(f"{len(found)} of {count} after {limit_s:.0f} s")
            alive()
            time.sleep(_POLL_S if count < _MANY else _POLL_MANY_S)
        self._at += sum(len(line) + 1 for line in found)
        return sorted((_read(line) for line in found), key=lambda one: one.began)

    def forget(self) -> None:
        """What has been written until now does not count."""
        self._at = self.path.stat().st_size if self.path.exists() else 0

    def _new(self) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                return file.read().split(b"\n")[:-1]  # what follows the last newline is not complete
        except FileNotFoundError:
            return []


def _read(line: bytes) -> Stamp:
    began, ended, sent = map(int, line.split())
    return Stamp(began, ended, sent)


def hops(stamps: list[Stamp]) -> list[float]:
    """Milliseconds between the end of one and the begin of the next, of a single chain in order."""
    return [(after.began - before.ended) / MS for before, after in pairwise(stamps)]


def rate(stamps: list[Stamp], since: int) -> float:
    """Pieces of user code per second, until the end of the last. Raises Failed when there are none."""
    if not stamps:
        raise Failed("no user code has run")
    return len(stamps) / ((max(one.ended for one in stamps) - since) / 1e9)
