"""The options of a task: what an author may write, checked and in the units of the model."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypedDict

from attrs import frozen

from scheduler.authoring import checks
from scheduler.authoring.errors import DagError
from scheduler.model import DEFAULT_POOL, Isolation, RetryPolicy, TriggerRule

WEIGHT_RULES = ("downstream", "upstream", "absolute")
_WEIGHT_LIMIT = 2**31 - 1


class CommonOptions(TypedDict, total=False):
    """What may be given to a task, and as `default_args` to a dag for all of its tasks."""

    retries: int
    retry_delay: timedelta | float
    """Default: 5 minutes."""
    retry_exponential_backoff: bool | float
    """True doubles the delay with every failure; a number multiplies by that."""
    max_retry_delay: timedelta | float | None
    execution_timeout: timedelta | float | None
    """Of one try."""
    trigger_rule: TriggerRule | str
    pool: str
    pool_slots: int
    priority_weight: int
    weight_rule: Literal["downstream", "upstream", "absolute"]
    """Add the weights of everything after the task (the default), of everything before it, or of nothing."""
    rerun_when_lost: bool
    """A try lost to the infrastructure is run again without charge (the default), or counts as a failure."""
    isolation: Isolation | str
    """"process" or "reuse"; by default that of the dag."""
    ignore_downstream_trigger_rules: bool
    """Of a short circuit: skip everything after it (the default), or what comes directly after it."""
    doc_md: str


class TaskOptions(CommonOptions, total=False):
    """What may be given to `@task(...)` and `.override(...)`."""

    task_id: str
    """Default: the name of the function."""


@frozen(kw_only=True)
class Settings:
    """The options of one task, complete. Times in seconds."""

    retry: RetryPolicy
    execution_timeout: float | None
    trigger_rule: TriggerRule
    pool: str
    pool_slots: int
    priority_weight: int
    weight_rule: str
    rerun_when_lost: bool
    isolation: Isolation | None
    ignore_downstream_trigger_rules: bool
    doc: str | None


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "task_id": lambda value: checks.identifier(value, "task_id"),
    "retries": lambda value: checks.whole(value, "retries", least=0, most=1_000_000),
    "retry_delay": lambda value: checks.seconds(value, "retry_delay", zero=True),
    "retry_exponential_backoff": lambda value: _multiplier(value),
    "max_retry_delay": lambda value: None if value is None else checks.seconds(value, "max_retry_delay"),
    "execution_timeout": lambda value: None if value is None else checks.seconds(value, "execution_timeout"),
    "trigger_rule": lambda value: TriggerRule(checks.one_of(value, "trigger_rule", map(str, TriggerRule))),
    "pool": lambda value: checks.identifier(value, "pool"),
    "pool_slots": lambda value: checks.whole(value, "pool_slots", least=1),
    "priority_weight": lambda value: checks.whole(
        value, "priority_weight", least=-_WEIGHT_LIMIT - 1, most=_WEIGHT_LIMIT
    ),
    "weight_rule": lambda value: checks.one_of(value, "weight_rule", WEIGHT_RULES),
    "rerun_when_lost": lambda value: checks.flag(value, "rerun_when_lost"),
    "isolation": lambda value: isolation(value),
    "ignore_downstream_trigger_rules": lambda value: checks.flag(value, "ignore_downstream_trigger_rules"),
    "doc_md": lambda value: None if value is None else checks.text(value, "doc_md"),
}


def isolation(value: object) -> Isolation:
    """Raises DagError if it is no kind of isolation."""
    return Isolation(checks.one_of(value, "isolation", map(str, Isolation)))


def _multiplier(value: object) -> float:
    if isinstance(value, bool):
        return 2.0 if value else 0.0
    if not isinstance(value, int | float) or not 0 <= value <= 1000:
        raise DagError(
            "retry_exponential_backoff must be True, False or a multiplier from 0 to 1000, "
            f"not {checks.describe(value)}"
        )
    return float(value)


def checked(options: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """The options in the units of the model. Raises DagError naming the first that is wrong or unknown."""
    found = {}
    for name, value in options.items():
        if name not in _CHECKS:
            raise DagError(f"{what} has no option {name!r}{checks.did_you_mean(str(name), _CHECKS)}")
        found[name] = _CHECKS[name](value)
    return found


def complete(options: Mapping[str, Any]) -> Settings:
    """Checked options with defaults for the rest."""
    delay = options.get("retry_delay", 300.0)
    most = options.get("max_retry_delay")
    return Settings(
        retry=RetryPolicy(
            retries=options.get("retries", 0),
            delay=delay,
            multiplier=options.get("retry_exponential_backoff", 0.0),
            max_delay=most,
        ),
        execution_timeout=options.get("execution_timeout"),
        trigger_rule=options.get("trigger_rule", TriggerRule.ALL_SUCCESS),
        pool=options.get("pool", DEFAULT_POOL),
        pool_slots=options.get("pool_slots", 1),
        priority_weight=options.get("priority_weight", 1),
        weight_rule=options.get("weight_rule", "downstream"),
        rerun_when_lost=options.get("rerun_when_lost", True),
        isolation=options.get("isolation"),
        ignore_downstream_trigger_rules=options.get("ignore_downstream_trigger_rules", True),
        doc=options.get("doc_md"),
    )
