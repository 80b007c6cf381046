"""A daemon reduced to its database: runs the embedded server of the home in argv[1] until it is killed."""

import sys

import trio

from scheduler.home import Home
from scheduler.postgres import embedded


async def main() -> None:
    async with embedded(Home(sys.argv[1]), on_status=lambda text: print(text, flush=True)) as dsn:
        print(dsn, flush=True)
        await trio.sleep_forever()


trio.run(main)
