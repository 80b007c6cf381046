"""`asyncsched db`: check, migrate."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.options import HomeOption, JsonOption

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="embedded|DSN",
        help="Which database. Default: what the configuration says, else the embedded one of the home.",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration file (TOML).", show_default=False)
]


def check(
    home: HomeOption = None, database: DatabaseOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Say whether the database's schema fits this version; exit 8 if it needs a migration."""
    from scheduler.cli.failures import CHECK_FAILED, Failed
    from scheduler.cli.output import print_json, print_lines
    from scheduler.cli.schema import look

    seen = look(home, database=database, config=config)
    if as_json:
        print_json(seen)
    else:
        print_lines([_sentence(seen)])
    if not seen["is_current"]:
        raise Failed(CHECK_FAILED, "the schema needs a migration: stop the daemon, then asyncsched db migrate")


def migrate(
    home: HomeOption = None, database: DatabaseOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Bring the database's schema to this version. The daemon does this itself for the embedded one."""
    from scheduler.cli.output import hint, print_json, print_lines
    from scheduler.cli.schema import upgrade

    steps = upgrade(home, database=database, config=config)
    if as_json:
        print_json({"applied": steps})
        return
    print_lines(steps)
    if not steps:
        hint("Nothing to do: the schema is current.")


def _sentence(seen: Any) -> str:
    current = seen["current"] or "none"
    return f"current\t{current}" if seen["is_current"] else f"outdated\t{current} -> {seen['head']}"
