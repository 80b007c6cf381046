"""Logging of the daemon: coloured lines on a terminal, prefixed ones for the journal, JSON lines otherwise."""

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from scheduler.model.facts import Fact, FactKind

FACTS = logging.getLogger("asyncsched.facts")

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_COLOURS = {"success": "32", "failed": "31", "upstream_failed": "31", "skipped": "35", "up_for_retry": "33"}
_ICONS = {
    "success": "✔",
    "failed": "✘",
    "skipped": "↷",
    "upstream_failed": "✘",
    "up_for_retry": "↻",
    "scheduled": "↻",
    "running": "▶",
    "queued": "…",
    "none": "↺",
}
_LEVELS = {
    logging.DEBUG: ("2", "debug"),
    logging.INFO: ("0", ""),
    logging.WARNING: ("33", "warning: "),
    logging.ERROR: ("31", "error: "),
    logging.CRITICAL: ("1;31", "error: "),
}
_JOURNAL = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def tell(facts: list[Fact]) -> None:
    """Log facts; the store calls this after the commit."""
    for fact in facts:
        level = logging.INFO
        if fact.kind is FactKind.TASK_STARTED:
            level = logging.DEBUG
        elif fact.kind in (FactKind.FILE_BROKEN, FactKind.REPORT_REFUSED, FactKind.SLOTS_DROPPED):
            level = logging.WARNING
        if FACTS.isEnabledFor(level):
            FACTS.log(level, sentence(fact), extra={"fact": fact})


def sentence(fact: Fact) -> str:
    """A fact in one line for people."""
    about = fact.about
    what = " ".join(str(about[key]) for key in ("dag_id", "run_id", "task_id") if key in about)
    match fact.kind:
        case FactKind.FILE_LOADED:
            dags = ", ".join(about["dags"]) or "no dags"
            return f"loaded {about['file']}: {dags}"
        case FactKind.FILE_BROKEN:
            line = f":{about['line']}" if about.get("line") else ""
            return f"cannot load {about['file']}{line}: {about['message']}"
        case FactKind.RUN_CREATED:
            return f"{_ICONS[about['state']]} {what} created"
        case FactKind.RUN_FINISHED:
            seconds = f" in {about['seconds']:.2f} s" if about.get("seconds") is not None else ""
            reason = f" ({about['reason']})" if about.get("reason") else ""
            return f"{_ICONS[about['state']]} {what} {about['state']}{seconds}{reason}"
        case FactKind.RUN_CLEARED:
            return f"{_ICONS['none']} {what}: cleared {_some(about['tasks'])}"
        case FactKind.TASKS_MARKED:
            return f"{_ICONS[about['state']]} {what}: marked as {about['state']}: {_some(about['tasks'])}"
        case FactKind.RUN_MARKED:
            return f"{_ICONS[about['state']]} {what} marked as {about['state']}"
        case FactKind.TASK_STARTED:
            return f"{_ICONS['running']} {what} try {about['try_number']}"
        case FactKind.TASK_ENDED:
            message = f": {about['message']}" if about.get("message") else ""
            again = " (again soon)" if about["state"] in ("up_for_retry", "scheduled", "none") else ""
            state = "stopped" if about["state"] == "none" else about["state"]
            return f"{_ICONS[about['state']]} {what} try {about['try_number']} {state}{message}{again}"
        case FactKind.REPORT_REFUSED:
            return f"refused a report about attempt {about['token']}: it is history, or unknown"
        case FactKind.SLOTS_DROPPED:
            return f"{about['dropped']} missed slots beyond the cap were dropped"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


class TerminalFormatter(logging.Formatter):
    """Local time, then the sentence, coloured by state or level."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, tz=UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        colour, prefix = _LEVELS.get(record.levelno, ("0", ""))
        fact = getattr(record, "fact", None)
        if isinstance(fact, Fact) and record.levelno == logging.INFO:
            colour = _COLOURS.get(str(fact.about.get("state")), "0")
        text = prefix + record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + self.formatException(record.exc_info)
        if not self._colours:
            return f"{clock}  {text}"
        return f"{_DIM}{clock}{_RESET}  \x1b[{colour}m{text}{_RESET}"


class JournalFormatter(logging.Formatter):
    """`<priority>` and the sentence: journald adds the time and strips the prefix."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        prefix = f"<{_JOURNAL.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in text.splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, and the fields of a fact."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fact = getattr(record, "fact", None)
        if isinstance(fact, Fact):
            entry |= {"fact": str(fact.kind), "about": fact.about}
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


def configure(*, verbose: bool, stream: TextIO | None = None) -> None:
    """Set up logging to stderr for the life of this process."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(stream))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("asyncsched", "scheduler", "nurseries"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in ("alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _formatter(stream: TextIO) -> logging.Formatter:
    if _is_journal(stream):
        return JournalFormatter()
    if stream.isatty():
        return TerminalFormatter(colours=not os.environ.get("NO_COLOR"))
    return JsonFormatter()


def _is_journal(stream: TextIO) -> bool:
    """Does this stream lead to the journal? systemd names its device and inode in JOURNAL_STREAM."""
    try:
        device, inode = os.environ["JOURNAL_STREAM"].split(":")
        status = os.fstat(stream.fileno())
    except (KeyError, ValueError, OSError):
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))
