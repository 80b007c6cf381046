"""Watch the DAG files: parse what is new or changed in children, store what they define.

A file is parsed in a process of its own, beside the steps, so that a slow one delays no other; a step takes
in what has been parsed, looks at the folder, and sends off what has changed. One transaction for each file: its
row, its dags' rows, new versions where the hash differs. A file that does not import keeps the dags it had and
shows its error. Killed in between, the next start parses everything once more and finds nothing new.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

import trio
from attrs import define, field

from nurseries.routine import Pace, Progress
from scheduler.loading.loader import ImportFailure, Loaded, load_file
from scheduler.loading.scan import scan
from scheduler.loading.sources import PinnedSources
from scheduler.loading.version import version_hash
from scheduler.model.facts import FactKind
from scheduler.store import dags
from scheduler.store.documents import encode
from scheduler.store.errors import Conflict
from scheduler.store.locks import Lock
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store
from scheduler.store.writer import Row, Transaction, writer

PARSED = "file_parsed"
STORED = "files_stored"
"""Poked after each look at the folder: what had been parsed by then is in the store."""
Stamp = tuple[int, int, int]
LOOKING = 0.01
"""At most this share of one core goes into looking at the folder."""
LONGEST_SECONDS = 10.0
"""Between two looks, whatever they cost."""


@writer(Lock.DAG_FILE, Lock.DAG, inserts=(Lock.DAG_FILE, Lock.DAG))
async def store_file(tx: Transaction, path: str, parsed: Loaded | ImportFailure, files: Collection[str]) -> None:
    """Store one parsed file; `files` are all that are present now, to tell a moved dag from a duplicate."""
    file_keys = await tx.lock(dags.LOCK_FILES, paths=[path])
    if isinstance(parsed, ImportFailure):
        await dags.note_file(tx, file_keys, path=path, source_hash=None, line=parsed.line, message=parsed.message)
        tx.tell(FactKind.FILE_BROKEN, file=path, line=parsed.line, message=parsed.message)
        return
    # the row of a new file is inserted before dags are locked: ranks only rise
    await dags.note_file(tx, file_keys, path=path, source_hash=parsed.source_hash, line=None, message=None)
    by_id = {dag.dag_id: dag for dag in parsed.dags}
    held = await tx.lock(dags.LOCK_OF_FILE, dag_ids=sorted(by_id), paths=[path])
    before = {row["dag_id"]: row for row in await dags.present(tx, held)}
    for dag_id in by_id:
        row = before.get(dag_id)
        if row is not None and row["is_present"] and row["file"] != path and row["file"] in files:
            line = by_id[dag_id].line
            message = f"dag_id {dag_id!r} is already defined in {row['file']}: give one of them another id"
            raise DuplicateDag(line, message)
    keys = {dag_id: row["id"] for dag_id, row in before.items()}
    new = [dag for dag_id, dag in by_id.items() if dag_id not in before]
    if new:
        added = await dags.add(tx, new, file=path)
        if len(added) < len(new):
            raise Conflict("another daemon has just stored a dag of this file", sqlstate="40001")
        keys |= added
    await _store_versions(tx, path, parsed, keys, before)


async def _store_versions(
    tx: Transaction, path: str, parsed: Loaded, keys: dict[str, int], before: dict[str, Row]
) -> None:
    fresh, pointed = [], []
    for dag in parsed.dags:
        row = before.get(dag.dag_id)
        hashed = version_hash(dag, parsed.source_hash)
        if row is not None and row["hash"] == hashed:
            if not row["is_present"] or row["file"] != path:
                pointed.append((keys[dag.dag_id], row["version_id"], dag))
            continue
        number = 1 if row is None or row["number"] is None else row["number"] + 1
        fresh.append((keys[dag.dag_id], number, dags.Version(dag=dag, document=encode(dag), hash=hashed)))
    if fresh:
        made = await dags.add_versions(tx, fresh, source=parsed.source, source_hash=parsed.source_hash)
        pointed += [(dag_pk, made[dag_pk], version.dag) for dag_pk, _, version in fresh]
    if pointed:
        await dags.point(tx, pointed, file=path)
        tx.announce(Topic.DAG_DUE, Topic.VERSIONS_CHANGED)
    defined = {dag.dag_id for dag in parsed.dags}
    gone = [row["id"] for row in before.values() if row["dag_id"] not in defined and row["is_present"]]
    await dags.hide(tx, gone)
    if fresh or gone:
        tx.tell(FactKind.FILE_LOADED, file=path, dags=sorted(defined))


@writer(Lock.DAG_FILE, Lock.DAG)
async def forget_files(tx: Transaction, paths: Collection[str]) -> int:
    """Files that are gone: their errors vanish, and their dags get no new runs. Returns how many dags."""
    file_keys = await tx.lock(dags.LOCK_FILES, paths=sorted(paths))
    await dags.clear_files(tx, file_keys)
    held = await tx.lock(dags.LOCK_OF_FILE, dag_ids=[], paths=sorted(paths))
    gone = [row["id"] for row in await dags.present(tx, held) if row["is_present"]]
    await dags.hide(tx, gone)
    return len(gone)


class DuplicateDag(Exception):
    """A dag_id of this file belongs to another file that is there too."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.failure = ImportFailure(line=line, message=message)


@define(kw_only=True, eq=False)
class LoadDags:
    """Steps once a second, and when a child has parsed a file."""

    store: Store
    dags_dir: Path
    sources: PinnedSources
    nursery: trio.Nursery
    """Where parsing runs, beside the steps."""
    poke: Callable[..., None]
    pace: Pace
    timeout: float
    memory_limit: int
    parallel: int
    wakes_on = (PARSED,)
    _seen: dict[str, Stamp] = field(factory=dict)
    """The stamp of each file when it was last sent to be parsed."""
    _parsing: set[str] = field(factory=set)
    _parsed: list[tuple[str, Loaded | ImportFailure]] = field(factory=list)
    _is_behind: bool = True
    _known_gone: set[str] | None = None
    _present: dict[str, Stamp] = field(factory=dict)
    """What the last look has found."""
    _look_again_at: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Is any file yet to be parsed, being parsed, or parsed and not stored?"""
        return bool(self._parsing or self._parsed or self._is_behind)

    async def step(self) -> Progress:
        while self._parsed:
            path, parsed = self._parsed[0]
            await self._store(path, parsed)
            self._parsed.pop(0)
        now = await self._look()
        changed = [path for path, stamp in now.items() if self._seen.get(path) != stamp]
        self._is_behind = bool(changed)
        for path in sorted(set(changed) - self._parsing)[: max(0, self.parallel - len(self._parsing))]:
            self._seen[path] = now[path]
            self._parsing.add(path)
            self.nursery.start_soon(self._parse, path)
        self.poke(STORED)
        return Progress.IDLE

    async def _look(self) -> dict[str, Stamp]:
        """What is in the folder; with thousands of files in it as of a moment ago, since looking takes time too."""
        if trio.current_time() >= self._look_again_at:
            began = time.thread_time()  # of the processor: to have waited for it is no reason to look less often
            self._present = scan(self.dags_dir)
            took = time.thread_time() - began
            self._look_again_at = trio.current_time() + min(LONGEST_SECONDS, took / LOOKING)
            await self._forget(set(self._present))
        return self._present

    async def _parse(self, path: str) -> None:
        try:
            parsed = await load_file(
                self.dags_dir / path, timeout=self.timeout, memory_limit=self.memory_limit, shown_as=path
            )
            self._parsed.append((path, parsed))
        finally:
            self._parsing.discard(path)
            self.poke(PARSED)

    async def _store(self, path: str, parsed: Loaded | ImportFailure) -> None:
        if isinstance(parsed, Loaded):
            self.sources.write(parsed.source_hash, path, parsed.source)
        try:
            await self.store.transact(store_file, path, parsed, frozenset(self._seen))
        except DuplicateDag as error:
            await self.store.transact(store_file, path, error.failure, frozenset(self._seen))

    async def _forget(self, present: set[str]) -> None:
        if self._known_gone is None:
            known = await self.store.read(dags.known_files)
            gone = set(known) - present
        else:
            gone = set(self._seen) - present
        if gone:
            await self.store.transact(forget_files, gone)
            for path in gone:
                self._seen.pop(path, None)
            self.poke(Topic.VERSIONS_CHANGED)
        self._known_gone = set()
