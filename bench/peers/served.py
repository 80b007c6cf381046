"""What the peers have in common: a database of their own on the bench's server, processes, an API over HTTP."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define, field

from bench import processes
from bench.daemon import Failed
from bench.peers.children import Children
from bench.peers.stamps import Stamps
from bench.server import Server, plain
from scheduler.postgres.settings import ROLE

TIMEOUT_S = 60.0


@contextmanager
def database(server: Server, name: str) -> Iterator[str]:
    """The address, as libpq takes it, of a new empty database; dropped at the end."""
    server.administer(f"CREATE DATABASE {name} OWNER {ROLE}")
    try:
        yield plain(server.database(name))
    finally:
        server.administer(f"DROP DATABASE {name} WITH (FORCE)")


def server_pids(server: Server) -> list[int]:
    """PostgreSQL's own processes, without the program of ours that started it."""
    found = processes.usage(processes.tree(server.pid), with_memory=False)
    return [one.pid for one in found if one.name == "postgres"]


@define
class Served:
    """A peer that runs."""

    children: Children
    server: Server
    port: int
    stamps: Stamps
    headers: dict[str, str] = field(factory=lambda: {"Content-Type": "application/json"})

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request to its API. Raises Failed, or OSError when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), self.headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise Failed(f"{method} {path}: {answer.status} {said[:300].decode(errors='replace')}")
        return json.loads(said)

    def check(self) -> None:
        """Raise Failed if one of its processes has ended."""
        self.children.check()

    def pids(self) -> list[int]:
        """All its processes, those of PostgreSQL included."""
        return server_pids(self.server) + [pid for root in self.children.pids() for pid in processes.tree(root)]
