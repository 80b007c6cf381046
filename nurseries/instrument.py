"""Who hears about each step:

spans and metrics plug in here, so that neither routines nor supervisor name them.
"""

from typing import Protocol

from nurseries.routine import Progress


class Instrument(Protocol):
    """Told about every step, synchronously and at once; it must be quick and must not raise."""

    def step_started(self, name: str) -> None:
        """The named routine begins a step."""
        ...

    def step_ended(self, name: str, *, seconds: float, progress: Progress | None, error: BaseException | None) -> None:
        """The step is over, after `seconds`:

        with its progress, or with what it raised (also a cancellation).
        """
        ...
