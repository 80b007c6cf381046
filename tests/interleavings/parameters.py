"""How much is tried: the quick profile by default, more by environment (see README.md)."""

import os

from tests.stress import report


def number(name: str, quick: int) -> int:
    """ASYNCSCHED_STRESS_<name>, or what the quick profile does."""
    return int(os.environ.get(f"ASYNCSCHED_STRESS_{name}", quick))


EXAMPLES = number("EXAMPLES", 300)
"""Full-stack examples."""
STEPS = number("STEPS", 30)
"""Rules in one of them, at most."""
SHRINK_SECONDS = number("SHRINK_SECONDS", 60)
"""How long a failure is made shorter."""
SEED = report.SEED
"""Of everything that the stress profile samples: drawn anew for each session, and printed."""
SMALL_SEED = int(os.environ.get("ASYNCSCHED_STRESS_SEED") or 20)
"""Of the small parts that run with the other tests: the same each time, so that whoever changes something else is not
the one who meets what was never drawn before."""
EVERY_INTERLEAVING = number("EVERY_INTERLEAVING", 40)
"""Pairs with at most so many interleavings are tried in all of them."""
UPSERT_SCHEDULES = number("UPSERT_SCHEDULES", 5)
"""Schedules drawn for each two shapes of work that insert into one table; 1000 is all of them, ten minutes."""
VARIANT_PAIRS = number("VARIANT_PAIRS", 200)
"""Pairs of other shapes of work than each writer's first, sampled."""
TRIPLES = number("TRIPLES", 150)
"""Schedules of three writers, sampled."""
DRAIN_EVERY = number("DRAIN_EVERY", 40)
"""Of so many schedules one is followed by running everything to its end; so is each pair's last."""
PLANS = number("PLANS", 12)
"""Random plan settings for each locking statement."""
HALTS = number("HALTS", 250)
"""Pairs of writers of which one is halted between two rows of one statement."""
