"""Plans as they may be one day: other scans, other joins, a plan made for other values."""

import random

SWITCHES = (
    "bitmapscan", "hashagg", "hashjoin", "incremental_sort", "indexonlyscan", "indexscan", "material", "memoize",
    "mergejoin", "nestloop", "seqscan", "sort",
)  # fmt: skip
MODES = ("auto", "force_custom_plan", "force_generic_plan")


def random_plans(draw: random.Random) -> str:
    """SQL for one transaction: what the planner may not use, and whether it may look at the values."""
    off = [name for name in SWITCHES if draw.random() < 0.4]
    return "; ".join(
        [
            "DISCARD PLANS",
            f"SET LOCAL plan_cache_mode = {draw.choice(MODES)}",
            *(f"SET LOCAL enable_{name} = off" for name in off),
        ]
    )
