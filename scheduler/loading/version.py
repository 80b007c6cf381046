"""When two dags are the same version."""

import hashlib

import msgspec

from scheduler.model import Dag

_encoder = msgspec.json.Encoder(order="deterministic")


def version_hash(dag: Dag, source_hash: str) -> str:
    """SHA-256 in hex over the canonical document and the text it came from: a version is both."""
    digest = hashlib.sha256(_encoder.encode(dag))
    digest.update(b"\0" + source_hash.encode())
    return digest.hexdigest()
