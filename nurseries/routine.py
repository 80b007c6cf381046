"""What the supervisor runs: a routine has a pace, topics that wake it, and one step."""

import re
from collections.abc import Hashable
from typing import ClassVar, Protocol, Self

from attrs import field, frozen
from attrs.validators import ge, gt, optional

DEFAULT_STEP_LIMIT_S = 30.0


@frozen(kw_only=True)
class Pace:
    """At least one step every `seconds`, whether or not anybody poked."""

    seconds: float = field(validator=gt(0))


@frozen(kw_only=True)
class Progress:
    """What a step found: nothing left to do, more to do at once, or something to look at again soon.

    Use `Progress.IDLE`, `Progress.MORE` and `Progress.again(seconds=...)`.
    """

    IDLE: ClassVar["Progress"]
    MORE: ClassVar["Progress"]

    more: bool = False
    within_seconds: float | None = field(default=None, validator=optional(ge(0)))

    @classmethod
    def again(cls, seconds: float = 0.5) -> Self:
        """Step again after at most `seconds`, if the pace or a poke does not come first."""
        return cls(within_seconds=seconds)


Progress.IDLE = Progress()
Progress.MORE = Progress(more=True)


class Routine(Protocol):
    """One independent activity, repeated by the supervisor. It never loops, sleeps or catches `Exception`.

    Two attributes are optional: `name` (default: the class name in snake_case) and `step_limit_s`, the
    longest a step may take before the watchdog calls the routine stuck (default: 30 s).
    """

    @property
    def pace(self) -> Pace:
        """The longest pause between two steps."""
        ...

    @property
    def wakes_on(self) -> tuple[Hashable, ...]:
        """The topics whose pokes bring the next step forward."""
        ...

    async def step(self) -> Progress:
        """Do one bounded piece of work."""
        ...


def name_of(routine: Routine) -> str:
    """The name under which a routine is logged and counted: its `name`, else its class in snake_case."""
    name = getattr(routine, "name", None)
    return str(name) if name else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(routine).__name__).lower()


def step_limit_of(routine: Routine) -> float:
    """The longest a step of this routine may take, in seconds, before it counts as stuck."""
    return float(getattr(routine, "step_limit_s", DEFAULT_STEP_LIMIT_S))
