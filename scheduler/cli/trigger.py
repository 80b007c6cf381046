"""`asyncsched trigger`: start a run now, and wait for it if asked to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.options import DagArgument, HomeOption, JsonOption, QuietOption

if TYPE_CHECKING:
    from scheduler.control.client import ControlClient

FINISHED = ("success", "failed")
ONE_WAIT = 60.0
"""Seconds one request waits; the daemon's own limit."""

SHOWN_EVERY = 0.5
"""Seconds between looks while somebody watches the progress."""


def trigger(
    dag_id: DagArgument,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="KEY=VALUE", help="One value of conf; JSON, or else text."),
    ] = None,
    conf: Annotated[
        str | None,
        typer.Option("--conf", metavar="JSON|@FILE|-", help="The run's conf, a JSON object.", show_default=False),
    ] = None,
    logical_date: Annotated[
        str | None,
        typer.Option("--logical-date", metavar="TIME", help="RFC 3339; without an offset UTC.", show_default=False),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="Name the run yourself.", show_default=False)
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", metavar="", help="Wait for its end: exit 0 on success, 1 when it failed.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Wait so long at most, then exit 7.", show_default=False),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Start a run of DAG now."""
    from scheduler.cli.connection import connect
    from scheduler.cli.failures import FAILED, TIMED_OUT, Failed

    values = read_conf(conf, param or [])
    with connect(home) as client:
        run = client.call("runs.trigger", dag_id=dag_id, conf=values, logical_date=logical_date, run_id=run_id)
        if wait:
            run = wait_for(client, run, timeout=timeout)
    _print(run, waited=wait, as_json=as_json, quiet=quiet)
    if wait and run["state"] not in FINISHED:
        raise Failed(TIMED_OUT, f"{run['run_id']} is still {run['state']} after {timeout:g} s; it goes on")
    if run["state"] == "failed":
        raise Failed(FAILED)


def read_conf(conf: str | None, params: list[str]) -> dict[str, Any] | None:
    """The run's conf from --conf and -p; None when neither was given. Raises Failed (usage)."""
    import json
    import sys

    from scheduler.cli.failures import USAGE, Failed

    values: Any = None
    if conf is not None:
        try:
            if conf == "-":
                text = sys.stdin.read()
            else:
                text = Path(conf[1:]).read_text(encoding="utf-8") if conf.startswith("@") else conf
            values = json.loads(text, parse_constant=_refuse_constant)
        except OSError as error:
            raise Failed(USAGE, f"--conf: cannot read {conf[1:]}: {error.strerror}") from error
        except ValueError as error:
            raise Failed(USAGE, f"--conf is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise Failed(USAGE, '--conf must be a JSON object, like \'{"city": "Oslo"}\'')
    for each in params:
        key, mark, text = each.partition("=")
        if not mark or not key:
            raise Failed(USAGE, f"-p {each!r}: write KEY=VALUE")
        values = (values or {}) | {key: _value(text)}
    return values  # type: ignore[no-any-return]


def _value(text: str) -> Any:
    import json

    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def wait_for(client: "ControlClient", run: dict[str, Any], *, timeout: float | None) -> dict[str, Any]:
    """The run as it is when it has ended, or when so many seconds are over; shows progress on a terminal."""
    import sys

    from nurseries.clock import SystemClock

    clock = SystemClock()
    deadline = None if timeout is None else clock.monotonic() + timeout
    name = f"{run['dag_id']}/{run['run_id']}"
    watched = sys.stderr.isatty()

    def look() -> dict[str, Any]:
        seconds = SHOWN_EVERY if watched else ONE_WAIT
        if deadline is not None:
            seconds = min(seconds, max(0.0, deadline - clock.monotonic()))
        seen: dict[str, Any] = client.call("runs.wait", wait_seconds=seconds, run=name, seconds=seconds)
        return seen

    def is_over(seen: dict[str, Any]) -> bool:
        return seen["state"] in FINISHED or (deadline is not None and clock.monotonic() >= deadline)

    seen = look()
    if is_over(seen) or not watched:
        while not is_over(seen):
            seen = look()
        return seen
    from scheduler.cli.output import console

    with console(stderr=True).status(_progress(seen)) as status:
        while not is_over(seen):
            seen = look()
            status.update(_progress(seen))
    return seen


def _progress(seen: dict[str, Any]) -> str:
    counts: dict[str, int] = seen["counts"]
    done = sum(counts.get(state, 0) for state in ("success", "skipped", "failed", "upstream_failed", "removed"))
    running = f", {counts['running']} running" if counts.get("running") else ""
    return f"{seen['run_id']}  {seen['state']}: {done} of {sum(counts.values())} tasks done{running}"


def _print(run: dict[str, Any], *, waited: bool, as_json: bool, quiet: bool) -> None:
    from scheduler.cli.output import Column, field, hint, is_decorated, print_json, print_lines, print_table

    if as_json:
        print_json({"run_id": run["run_id"], "state": run["state"]})
    elif quiet:
        print_lines([run["run_id"]])
    else:
        columns = [Column("Run", field("run_id"), style="bold"), Column("State", field("state"), "state")]
        print_table(columns, [run], empty="")
        if not waited and is_decorated():
            hint(f"Follow it:  asyncsched logs -f {run['dag_id']}/{run['run_id']}")
