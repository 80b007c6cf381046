"""Whether a failed try is followed by another, and when."""

import hashlib
import math

from scheduler.model import RetryPolicy

DAY = 86_400.0


def may_retry(*, retries: int, try_number: int, max_tries: int, retryable: bool) -> bool:
    """`try_number` counts from 1; max_tries starts as `retries`, so tries 1..max_tries may be followed."""
    return retryable and retries > 0 and try_number <= max_tries


def retry_delay(policy: RetryPolicy, *, failures: int, identity: str) -> float:
    """Seconds from the end of the failed try to the next.

    Constant without a multiplier. With multiplier m the n-th failure waits b + H mod b, where
    b = max(1, ceil(delay * m ** (n - 1))) and H is the SHA-1 of `identity` (instance and try), at most a day and
    at most `max_delay`: exponential, and spread so that siblings that fail together do not come back together.
    """
    m = policy.multiplier
    if m in (0.0, 1.0):
        return policy.delay
    ceiling = min(DAY, policy.max_delay if policy.max_delay is not None else DAY)
    try:
        grown = policy.delay * m ** (failures - 1)
    except OverflowError:
        grown = DAY
    base = max(1, math.ceil(min(grown, DAY)))
    spread = int.from_bytes(hashlib.sha1(identity.encode(), usedforsecurity=False).digest()) % base
    return float(min(base + spread, ceiling))
