"""`dags check PATH`: parse DAG files here, as the daemon would, without one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler.loading.loader import ImportFailure, Loaded


def check(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Parse a DAG file or all of a directory: the errors as {"file", "line", "message"}, and a summary.

    Raises Failed if there is no such path, ConfigError if the limits are configured wrongly.
    """
    from scheduler.cli.failures import NOT_FOUND, Failed
    from scheduler.loading.scan import scan

    if path.is_dir():
        files = {name: path / name for name in sorted(scan(path))}
    elif path.is_file():
        files = {str(path): path}
    else:
        raise Failed(NOT_FOUND, f"there is no file or directory {path}")
    parsed = _parse(files)
    errors = _errors(parsed)
    dags = sum(len(each.dags) for each in parsed if hasattr(each, "dags"))
    return errors, f"All is well: {_count(len(files), 'file')}, {_count(dags, 'DAG')}."


def _parse(files: Mapping[str, Path]) -> Sequence["Loaded | ImportFailure"]:
    """Every file in a child process of its own, a few at a time; results in the order of the files."""
    import trio

    from scheduler.config import load_config
    from scheduler.loading.loader import ImportFailure, Loaded, load_file

    limits = load_config().loading
    parsed: dict[str, Loaded | ImportFailure] = {}

    async def parse(name: str, path: Path, slots: trio.CapacityLimiter) -> None:
        async with slots:
            parsed[name] = await load_file(
                path, timeout=limits.timeout_s, memory_limit=limits.memory_mb * 1024 * 1024, shown_as=name
            )

    async def main() -> None:
        slots = trio.CapacityLimiter(limits.parallel)
        async with trio.open_nursery() as nursery:
            for name, path in files.items():
                nursery.start_soon(parse, name, path, slots)

    trio.run(main)
    return [parsed[name] for name in files]


def _errors(parsed: Sequence["Loaded | ImportFailure"]) -> list[dict[str, Any]]:
    """What does not load, and dag ids that two files define."""
    from scheduler.loading.loader import ImportFailure

    errors: list[dict[str, Any]] = []
    owners: dict[str, str] = {}
    for each in parsed:
        if isinstance(each, ImportFailure):
            errors.append({"file": each.file, "line": each.line, "message": each.message})
            continue
        for dag in each.dags:
            owner = owners.setdefault(dag.dag_id, each.file)
            if owner != each.file:
                message = f"dag_id {dag.dag_id!r} is already defined in {owner}: give one of them another id"
                errors.append({"file": each.file, "line": dag.line, "message": message})
    return errors


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
