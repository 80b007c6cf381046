"""Airflow with LocalExecutor on PostgreSQL: API server, scheduler, DAG processor and triggerer, as documented."""

import secrets
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import define

from bench.daemon import Failed
from bench.peers.children import Children, environment, free_port, wait_until
from bench.peers.ours import dag_file
from bench.peers.served import Served, database
from bench.peers.shapes import Sizes
from bench.peers.stamps import Stamps
from bench.server import Server

START_LIMIT_S = 150.0
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")

DEFAULTS: Mapping[str, str] = {}
TUNED: Mapping[str, str] = {
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
    "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": "128",
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "128",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "128",
    "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "128",
    "AIRFLOW__CORE__PARALLELISM": "32",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}
"""What its documentation and its users name for latency and throughput."""


@define
class Airflow(Served):
    """A running one, asked over its public API."""

    def trigger(self, dag_id: str) -> str:
        return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})["dag_run_id"])

    def wait(self, dag_id: str, run: str, limit_s: float) -> None:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run, safe='')}"

        def ended() -> bool:
            state = self.call("GET", path)["state"]
            if state == "failed":
                raise Failed(f"{dag_id} {run} failed")
            return bool(state == "success")

        wait_until(f"{dag_id} {run} succeeds", limit_s, ended, self.check)


def _settings(place: Path, port: int, address: str, more: Mapping[str, str]) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(place / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address.replace("postgresql://", "postgresql+psycopg2://", 1),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": address.replace("postgresql://", "postgresql+asyncpg://", 1),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__DAGS_FOLDER": str(place / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        **more,
    }


@contextmanager
def running(
    place: Path, sizes: Sizes, *, home: Path, server: Server, tuning: Mapping[str, str] = DEFAULTS
) -> Iterator[Airflow]:
    """Migrate a database of its own on the server, start everything. Raises Failed."""
    stamps = place / "stamps"
    (place / "dags").mkdir()
    (place / "dags" / "shapes.py").write_text(dag_file("from airflow.sdk import dag, task", stamps, sizes))
    port = free_port()
    with database(server, "airflow") as address:
        children = Children(place, environment(home, place, _settings(place, port, address, tuning)))
        try:
            program = str(home / "bin" / "airflow")
            children.run("migrate", [program, "db", "migrate"])
            for component in COMPONENTS:
                children.start(component, [program, component])
            airflow = Airflow(children, server, port, Stamps(stamps))
            wait_until("the API server answers", START_LIMIT_S, lambda: _log_in(airflow), airflow.check)
            wait_until("the DAGs are there", START_LIMIT_S, lambda: _loaded(airflow), airflow.check)
            yield airflow
        finally:
            children.end()


def _log_in(airflow: Airflow) -> bool:
    try:
        airflow.headers["Authorization"] = f"Bearer {airflow.call('GET', '/auth/token')['access_token']}"
    except OSError:
        return False
    return True


def _loaded(airflow: Airflow) -> bool:
    return bool(airflow.call("GET", "/api/v2/dags")["total_entries"] >= 4)
