"""Reports gather where transactions are slow and other daemons are there, and nowhere else."""

import pytest

from scheduler.procedures.batching import LONGEST_S, SLOW_S, Batching
from scheduler.procedures.vacancies import Company


@pytest.mark.parametrize(
    ("is_there", "took", "pause"),
    [
        (True, SLOW_S * 1.5, SLOW_S * 1.5),
        (True, 1.0, LONGEST_S),
        (True, SLOW_S, 0.0),
        (False, SLOW_S * 1.5, 0.0),
        (False, 1.0, 0.0),
    ],
)
def test_a_slow_transaction_in_company_is_followed_by_a_pause(is_there: bool, took: float, pause: float) -> None:
    batching = Batching(company=Company(is_there=is_there))
    assert batching.pause == 0.0, "nothing has been slow yet"
    batching.took(took)
    assert batching.pause == pause
    batching.took(SLOW_S / 2)
    assert batching.pause == 0.0
