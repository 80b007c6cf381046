"""Jobs in the socket between worker and runner: each is received once, whoever is first."""

import threading
from datetime import UTC, datetime
from uuid import uuid4

from scheduler.executors import reuse_words
from scheduler.executors.job import Job
from scheduler.model import Workload


def job(*, size: int = 0) -> Job:
    workload = Workload(
        token=str(uuid4()),
        dag_id="d",
        run_id="r",
        task_id="t",
        run_type="manual",
        run_after=datetime(2026, 1, 1, tzinfo=UTC),
        file="f",
        source_path="p",
        source_hash="h",
        log_path="l",
        inputs={"above": "x" * size},
    )
    return Job(workload=workload, result_limit=1)


def test_jobs_arrive_in_order_whatever_their_size() -> None:
    into, out = reuse_words.socket_pair()
    sent = [job(size=size) for size in (0, 1000, 100_000, 5_000_000)]
    with into, out:
        assert all(reuse_words.send_job(into, one) for one in sent)
        assert [reuse_words.receive_job(out) for _ in sent] == sent
        into.close()
        assert reuse_words.receive_job(out) is None


def test_a_full_socket_says_so() -> None:
    into, out = reuse_words.socket_pair()
    with into, out:
        sent = 0
        while reuse_words.send_job(into, job(size=20_000)):
            sent += 1
        assert sent >= 4
        assert len(reuse_words.take_back(out)) == sent


def test_what_is_taken_back_nobody_else_has() -> None:
    """Both sides receive at once, thousands of times: every job is with exactly one of them, and known by its name."""
    into, out = reuse_words.socket_pair()
    begun: list[str] = []

    def run() -> None:
        while (one := reuse_words.receive_job(out)) is not None:
            begun.append(one.workload.token)

    runner = threading.Thread(target=run)
    runner.start()
    sent, back = [], set()
    both = 0
    for round_ in range(2000):
        for _ in range(4):
            one = job(size=50_000 if round_ % 50 == 0 else 0)
            if reuse_words.send_job(into, one):
                sent.append(one.workload.token)
        taken = reuse_words.take_back(out)
        both += 0 < len(taken) < 4
        back |= taken
    into.close()
    runner.join()
    out.close()
    assert not back & set(begun)
    assert sorted([*back, *begun]) == sorted(sent)
    assert both, "the two never met"
