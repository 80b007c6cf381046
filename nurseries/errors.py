"""The few errors supervision knows by name. Everything else an application raises is judged by these."""


class Weather(Exception):
    """The world misbehaves, not the program: back off. Logged once per spell, costs no budget."""


class Unavailable(Weather):
    """Something everybody needs is away: whoever meets it parks at the shared gate until it is back."""


class BudgetExhausted(Exception):
    """Something failed more often than its budget allows.

    `name` is what failed, `failures` how often it did within the budget's `seconds`. The last failure is the
    `__cause__`, if it was an exception.
    """

    def __init__(self, name: str, failures: int, seconds: float, why: str) -> None:
        super().__init__(f"{name} failed {failures} times within {seconds:g} s, most recently: {why}")
        self.name = name
        self.failures = failures
        self.seconds = seconds


class CrossingCancelled(Exception):
    """A crossing into asyncio was cancelled from the asyncio side, which nobody on the trio side asked for.

    What it had done until then is unknown.
    """


class ChildFailed(Exception):
    """A child process could not be started or kept, for a reason that is not its program's own."""
