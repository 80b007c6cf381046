"""Dag versions as JSON documents, and the graphs made from them, kept in memory because they never change."""

from collections import OrderedDict
from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from scheduler.decisions.graph import Graph
from scheduler.model import Dag
from scheduler.store import tables as t
from scheduler.store.locks import keys_param
from scheduler.store.writer import Reading

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Dag)

_VERSIONS = sa.select(t.dag_version.c.id, t.dag_version.c.document).where(t.dag_version.c.id == sa.any_(keys_param()))
KEPT = 2_000


def encode(dag: Dag) -> str:
    """The canonical document: equal dags give equal text."""
    return _encoder.encode(dag).decode()


def decode(document: str) -> Dag:
    """Raises msgspec.ValidationError if the document is not a dag."""
    return _decoder.decode(document)


class Graphs:
    """Graphs by version, read when first needed; the least recently used beyond KEPT are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Graph] = OrderedDict()

    async def load(self, tx: Reading, version_ids: Iterable[int]) -> dict[int, Graph]:
        """The graphs of these versions; raises KeyError if one does not exist."""
        wanted = set(version_ids)
        missing = wanted - self._known.keys()
        if missing:
            for row in await tx.fetch(_VERSIONS, {"keys": sorted(missing)}):
                self._known[row["id"]] = Graph.of(decode(row["document"]))
        found = {}
        for key in wanted:
            found[key] = self._known[key]
            self._known.move_to_end(key)
        while len(self._known) > max(KEPT, len(wanted)):
            self._known.popitem(last=False)
        return found
