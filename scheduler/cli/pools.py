"""`asyncsched pools`: list, set, delete."""

from typing import Annotated, Any

import typer

from scheduler.cli.options import HomeOption, JsonOption, QuietOption

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The pool's name.", show_default=False)]


NEGATIVE: dict[str, Any] = {"ignore_unknown_options": True}
"""Otherwise -1 would be taken for an option."""


def list_pools(home: HomeOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the pools with their slots; the pool "*" is the whole installation."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import print_json, print_lines

    pools = ask(home, "pools.list")
    if as_json:
        print_json(pools)
    elif quiet:
        print_lines([pool["name"] for pool in pools])
    else:
        _print(pools)


def set_pool(
    name: NameArgument,
    slots: Annotated[int, typer.Argument(metavar="SLOTS", min=-1, help="-1: no limit.", show_default=False)],
    description: Annotated[str | None, typer.Option("--description", "-d", help="What it is for.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a pool, or change its slots."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import print_json, print_lines

    pool = ask(home, "pools.set", name=name, slots=slots, description=description)
    if as_json:
        print_json(pool)
    else:
        print_lines([f"{pool['name']}\t{pool['slots']}"])


def delete_pool(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Delete a pool; tasks that name it wait until it is made again."""
    from scheduler.cli.connection import ask
    from scheduler.cli.output import print_json, print_lines

    pool = ask(home, "pools.delete", name=name)
    if as_json:
        print_json(pool)
    else:
        print_lines([pool["name"]])


def _print(pools: list[dict[str, Any]]) -> None:
    from scheduler.cli.output import Column, field, is_decorated, print_table

    def slots(pool: Any) -> Any:
        return "no limit" if pool["slots"] < 0 and is_decorated() else pool["slots"]

    columns = [
        Column("Pool", field("name"), style="bold"),
        Column("Slots", slots, "count"),
        Column("Used", field("used"), "count"),
        Column("Waiting", field("waiting"), "count"),
        Column("Description", field("description"), style="dim", wide=True),
    ]
    print_table(columns, pools, empty="There are no pools.")
