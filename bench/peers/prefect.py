"""Prefect: its own server on PostgreSQL, and one process that serves the flows, as `serve` is documented."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from bench.daemon import Failed
from bench.peers.children import PROGRAMS, Children, environment, free_port, wait_until
from bench.peers.served import Served, database
from bench.peers.shapes import Sizes
from bench.peers.stamps import Stamps
from bench.server import Server

START_LIMIT_S = 150.0

DEFAULTS: Mapping[str, str] = {}
TUNED: Mapping[str, str] = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "PREFECT_LOGGING_LEVEL": "WARNING"}
"""One second is the shortest it polls for work."""


@define
class Prefect(Served):
    """A running one, asked over its API."""

    deployments: dict[str, str] = field(factory=dict)

    def trigger(self, dag_id: str) -> str:
        return str(self.call("POST", f"/api/deployments/{self.deployments[dag_id]}/create_flow_run", {})["id"])

    def wait(self, dag_id: str, run: str, limit_s: float) -> None:
        def ended() -> bool:
            state = self.call("GET", f"/api/flow_runs/{run}")["state_type"]
            if state in ("FAILED", "CRASHED", "CANCELLED"):
                raise Failed(f"{dag_id} {run}: {state}")
            return bool(state == "COMPLETED")

        wait_until(f"{dag_id} {run} succeeds", limit_s, ended, self.check)


@contextmanager
def running(
    place: Path, sizes: Sizes, *, home: Path, server: Server, tuning: Mapping[str, str] = DEFAULTS
) -> Iterator[Prefect]:
    """Start server and runner on a database of its own. Raises Failed."""
    stamps, port = place / "stamps", free_port()
    with database(server, "prefect") as address:
        settings = {
            "PREFECT_HOME": str(place / "prefect"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": address.replace("postgresql://", "postgresql+asyncpg://", 1),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "DO_NOT_TRACK": "1",
            "BENCH_STAMPS": str(stamps),
            "BENCH_CHAIN": str(sizes.chain),
            "BENCH_FAN": str(sizes.fan),
            **tuning,
        }
        children = Children(place, environment(home, place, settings))
        try:
            prefect = Prefect(children, server, port, Stamps(stamps))
            program = str(home / "bin" / "prefect")
            children.start("server", [program, "server", "start", "--host", "127.0.0.1", "--port", str(port)])
            wait_until("the server answers", START_LIMIT_S, lambda: _healthy(prefect), prefect.check)
            children.start("flows", [str(home / "bin" / "python"), str(PROGRAMS / "prefect_flows.py")])
            wait_until("the flows are served", START_LIMIT_S, lambda: _served(prefect), prefect.check)
            yield prefect
        finally:
            children.end()


def _healthy(prefect: Prefect) -> bool:
    try:
        return bool(prefect.call("GET", "/api/health"))
    except (OSError, Failed):
        return False


def _served(prefect: Prefect) -> bool:
    found = prefect.call("POST", "/api/deployments/filter", {})
    flows = {one["id"]: one["name"] for one in prefect.call("POST", "/api/flows/filter", {})}
    prefect.deployments = {flows[one["flow_id"]]: one["id"] for one in found if one["flow_id"] in flows}
    return len(prefect.deployments) >= 4
