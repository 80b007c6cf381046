"""What the stress tests did, printed once at the end of the session (see tests/done.py)."""

import os
import random

SECTIONS: dict[str, list[str]] = {}

SEED = int(os.environ.get("ASYNCSCHED_STRESS_SEED") or random.SystemRandom().randrange(2**32))
"""Of everything that is drawn here. Printed; set ASYNCSCHED_STRESS_SEED to draw the same again.

Workers of one session have that of the session (tests/conftest.py), so import it in test modules, not before.
"""


def tell(section: str, line: str) -> None:
    """Remember a line for the end of the session; also seen with `pytest -s`."""
    SECTIONS.setdefault(section, []).append(line)
    print(f"{section}: {line}")


def number(name: str, default: int) -> int:
    """A size from the environment: ASYNCSCHED_STRESS_<NAME>."""
    return int(os.environ.get(f"ASYNCSCHED_STRESS_{name}", default))
