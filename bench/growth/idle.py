"""A daemon with many dags and nothing due: how long until all are loaded, and what it uses while nothing happens."""

import time
from pathlib import Path
from typing import Any

from bench import processes
from bench.daemon import Daemon, Failed
from bench.growth import dagfiles
from scheduler.home import Home

LOAD_LIMIT_S = 1_200.0
SETTLE_S = 10.0
"""What loading leaves behind, an autovacuum and a checkpoint, is not what is idle."""


def measure(place: Path, dags: int, *, per_file: int, idle_s: float) -> dict[str, Any]:
    """Start a daemon on so many dags in `place`; return seconds to load, CPU of loading and CPU idle. Raises Failed."""
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    dagfiles.write_many(place / "dags", "z_idle_", dags, per_file=per_file, schedule=dagfiles.NEVER)
    daemon = Daemon(home=Home(place / "home"), dags_dir=place / "dags", scratch=place)
    try:
        began = time.monotonic()
        daemon.start()
        _wait_until_loaded(daemon, dags)
        loading_s = time.monotonic() - began
        loaded = processes.usage(processes.tree(daemon.pid))
        time.sleep(SETTLE_S if idle_s > SETTLE_S else idle_s)
        before = processes.usage(processes.tree(daemon.pid))
        began = time.monotonic()
        time.sleep(idle_s)
        seconds = time.monotonic() - began
        after = processes.usage(processes.tree(daemon.pid))
        cpu = processes.cpu_between(before, after)
        daemon.stop()
    finally:
        daemon.end()
    return {
        "dags": dags,
        "files": -(-dags // per_file),
        "loading_s": loading_s,
        "loading_cpu_s": processes.by_name(loaded, "cpu_s"),
        "idle_percent": 100 * sum(cpu.values()) / seconds,
        "idle_cpu_s": cpu,
        "idle_s": seconds,
        "pss_mb": processes.by_name(after, "pss_mb"),
    }


def _wait_until_loaded(daemon: Daemon, dags: int) -> None:
    deadline = time.monotonic() + LOAD_LIMIT_S
    with daemon.client() as client:
        while (loaded := client.call("status")["dags"]["total"]) < dags:
            if time.monotonic() > deadline:
                raise Failed(f"{loaded} of {dags} dags were loaded after {LOAD_LIMIT_S:.0f} s")
            time.sleep(0.5)
