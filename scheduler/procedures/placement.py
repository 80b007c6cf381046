"""From an admitted task instance to the workload a worker gets."""

import uuid
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from scheduler.decisions.graph import Graph
from scheduler.model import Workload
from scheduler.store.tasks import Claim
from scheduler.store.writer import Row


@frozen(kw_only=True)
class Place:
    """Where attempts go: written into them."""

    daemon: str
    """The daemon's seat."""
    logs: Path
    source_path: Callable[[str, str], Path]
    """(source hash, file) -> path of the pinned copy."""
    dags_dir: Path


@frozen(kw_only=True)
class Admittee:
    """A task instance that gets a slot."""

    key: int
    task_index: int
    try_number: int
    max_tries: int
    map_index: int = -1


def place(admittee: Admittee, run: Row, graph: Graph, where: Place) -> tuple[Workload, Claim]:
    """A new claim for the instance and the workload that goes with it. `run` is a row of `tasks.run_facts`."""
    task = graph.tasks[admittee.task_index]
    token = str(uuid.uuid4())
    conf = run["conf"] or {}
    # made of integers and the token only: no name that a user chose becomes part of a path
    log = where.logs / str(run["id"]) / f"{admittee.key}-{admittee.try_number}-{token}.log"
    workload = Workload(
        token=token,
        dag_id=run["dag_id"],
        run_id=run["run_id"],
        task_id=task.task_id,
        map_index=admittee.map_index,
        try_number=admittee.try_number,
        max_tries=admittee.max_tries,
        run_type=run["run_type"],
        logical_date=run["logical_date"],
        data_interval_start=run["data_interval_start"],
        data_interval_end=run["data_interval_end"],
        run_after=run["run_after"],
        params={**graph.dag.params, **conf},
        conf=conf,
        file=str(where.dags_dir / run["file"]),
        source_path=str(where.source_path(run["source_hash"], run["file"])),
        source_hash=run["source_hash"],
        log_path=str(log),
        execution_timeout=task.execution_timeout,
        isolation=task.isolation or graph.dag.isolation,
    )
    return workload, Claim(key=admittee.key, token=token, try_number=admittee.try_number, log_path=workload.log_path)
