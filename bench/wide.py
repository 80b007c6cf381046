"""How many tasks a second shared processes do when nothing is meant to limit them: `isolation="reuse"`, a daemon with
room for a thousand attempts, a pool and dags without limits. Tasks really run; with the defaults it is `reuse_runs`.
"""

import time
from pathlib import Path

from bench import dagfiles, processes
from bench.daemon import Daemon, wait_for_success
from bench.end_to_end import trigger_many
from bench.measure import Report
from scheduler.home import Home

SLOTS = 1_000
FAN, RUNS = 1_000, 100


def measure(scratch: Path, report: Report, *, quick: bool) -> None:
    """A fan-out 1 -> 1,000 -> 1, then 100 runs of a chain of ten, once each after a warm-up. Raises Failed."""
    fan, runs = (50, 10) if quick else (FAN, RUNS)
    dag_ids = dagfiles.write_wide(scratch / "dags", fan=fan)
    daemon = Daemon(
        home=Home(scratch / "home"),
        dags_dir=scratch / "dags",
        scratch=scratch,
        settings={"ASYNCSCHED_SCHEDULER__PARALLELISM": str(SLOTS)},
    )
    try:
        daemon.start()
        daemon.wait_for_dags(dag_ids)
        with daemon.client() as client:
            client.call("pools.set", name="default_pool", slots=-1)
        for dag_id, count, tasks in (("reuse_fan", 1, fan + 2), ("reuse_free", runs, 10 * runs)):
            _measure(daemon, report, dag_id, runs=count, tasks=tasks)
        daemon.stop()
    finally:
        daemon.end()


def _measure(daemon: Daemon, report: Report, dag_id: str, *, runs: int, tasks: int) -> None:
    with daemon.client() as client:
        wait_for_success(client, dag_id, client.call("runs.trigger", dag_id=dag_id)["run_id"])
        before = processes.usage(processes.tree(daemon.pid), with_memory=False)
        began = time.monotonic()
        run_ids = trigger_many(daemon, dag_id, runs)
        for run_id in run_ids:
            wait_for_success(client, dag_id, run_id)
        seconds = time.monotonic() - began
        after = processes.usage(processes.tree(daemon.pid), with_memory=False)
    cpu = processes.cpu_between(before, after)
    report.add(dag_id, tasks / seconds, runs=runs, tasks=tasks, seconds=seconds, cpu_s=cpu)
