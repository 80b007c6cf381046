"""Where output goes and how it is dressed.

stdout carries data, stderr everything else. A terminal gets tables in colour; a pipe gets tab-separated columns
without header or decoration; `--json` one document. NO_COLOR, CLICOLOR_FORCE and COLUMNS are honoured.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Kind = Literal["text", "state", "instant", "moment", "seconds", "count"]
"""An instant is shown with how long ago it was, a moment without."""


@frozen
class Column:
    """One column: its heading, where its value comes from, and what kind of value that is."""

    heading: str
    value: Callable[[Mapping[str, Any]], Any]
    kind: Kind = "text"
    style: str = ""
    wide: bool = False
    """May be folded over several lines; others are kept whole as long as the terminal allows."""
    optional: bool = False
    """Left out of a table on a terminal when no row has a value; a pipe always gets all columns."""


def field(name: str) -> Callable[[Mapping[str, Any]], Any]:
    """Take the value from the row's field of that name."""
    return lambda row: row[name]


def is_decorated() -> bool:
    """Whether stdout gets tables and colours: on a terminal, or when colour is forced."""
    return sys.stdout.isatty() or _is_forced()


def _is_forced() -> bool:
    return os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0")


def console(*, stderr: bool = False) -> "Console":
    """A rich console for stdout or stderr."""
    from rich.console import Console

    return Console(
        stderr=stderr,
        highlight=False,
        no_color=True if os.environ.get("NO_COLOR") else None,
        force_terminal=True if _is_forced() and not stderr else None,
    )


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not _has_unicode()) + "\n")


def print_lines(lines: Sequence[str]) -> None:
    """Print plain lines, one value each."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def print_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print rows: a table on a terminal, tab-separated values in a pipe. `empty` is the hint for no rows."""
    if not is_decorated():
        print_lines(["\t".join(_plain(column, row) for column in columns) for row in rows])
        return
    if not rows:
        hint(empty)
        return
    console().print(table(columns, rows))


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> "RenderableType":
    """Rows as a rich table."""
    from rich import box
    from rich.table import Table

    columns = [each for each in columns if not each.optional or any(each.value(row) not in (None, "") for row in rows)]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        drawn.add_column(
            column.heading,
            justify="right" if column.kind in ("count", "seconds") else "left",
            overflow="fold",
            no_wrap=not column.wide,
        )
    now = this_moment()
    for row in rows:
        drawn.add_row(*(cell(column.value(row), column.kind, now=now, style=column.style) for column in columns))
    return drawn


def print_facts(facts: Sequence[tuple[str, Any, Kind]]) -> None:
    """Print names and values of one thing, one a line; on a terminal without those that are absent.

    A table that follows stands apart by an empty line on a terminal.
    """
    from rich.table import Table

    if not is_decorated():
        print_lines([f"{name}\t{printable(str(value)) if value is not None else ''}" for name, value, _ in facts])
        return
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    now = this_moment()
    for name, value, kind in facts:
        if value not in (None, ""):
            drawn.add_row(name, cell(value, kind, now=now))
    console().print(drawn, "")


def cell(value: Any, kind: Kind = "text", *, now: datetime, style: str = "") -> "RenderableType":
    """One value for a terminal."""
    from rich.text import Text

    from scheduler.cli import times

    if value is None or value == "":
        return Text("·" if _has_unicode() else "-", style="dim")
    match kind:
        case "state":
            return state(value)
        case "instant":
            when = datetime.fromisoformat(value)
            return Text.assemble(times.local(when, now=now), (f"  {times.relative(when, now=now)}", "dim"))
        case "moment":
            return Text(times.local(datetime.fromisoformat(value), now=now), style=style)
        case "seconds":
            return Text(times.duration(value), style=style)
    return Text(printable(str(value)), style=style)


def state(name: str) -> "RenderableType":
    """A state in its colour with its icon."""
    from rich.text import Text

    from scheduler.cli.states import look

    seen = look(name)
    return Text(f"{seen.icon if _has_unicode() else seen.letter} {name}", style=seen.style)


def _plain(column: Column, row: Mapping[str, Any]) -> str:
    value = column.value(row)
    if value is None:
        return ""
    if column.kind == "seconds":
        return f"{value:.6f}"
    # A tab or a line end inside a value would make a column or a row of its own.
    return " ".join(printable(str(value)).split()) if isinstance(value, str) else str(value)


def printable(text: str) -> str:
    """`text` without control characters, which could drive the reader's terminal; line ends and tabs stay."""
    return "".join(each if each in "\n\t" or each.isprintable() else "�" for each in text)


def hint(message: str) -> None:
    """Say something helpful on stderr."""
    if sys.stderr.isatty():
        console(stderr=True).print(message, style="dim", markup=False)
    else:
        sys.stderr.write(message + "\n")


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    if sys.stderr.isatty():
        from rich.text import Text

        console(stderr=True).print(Text.assemble(("error: ", "bold red"), printable(message)), soft_wrap=True)
    else:
        sys.stderr.write(f"error: {printable(message)}\n")


def this_moment() -> datetime:
    """Now, to tell how long ago something was."""
    from nurseries.clock import SystemClock

    return SystemClock().now()


def _has_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
