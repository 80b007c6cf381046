"""Tell the executor which DAG files to keep warm parents for: those in use, most recently run first."""

from pathlib import Path

from attrs import frozen

from nurseries.routine import Pace, Progress
from scheduler.executors.base import Executor
from scheduler.loading.sources import PinnedSources
from scheduler.store import dags
from scheduler.store.topics import Topic
from scheduler.store.transaction import Store


@frozen(kw_only=True)
class WarmWorkers:
    """A hint for speed; an attempt whose file is not warm only starts later."""

    store: Store
    executor: Executor
    sources: PinnedSources
    dags_dir: Path
    at_most: int
    pace = Pace(seconds=60)
    wakes_on = (Topic.VERSIONS_CHANGED,)

    async def step(self) -> Progress:
        files = await self.store.read(dags.files_in_use, self.at_most)
        self.executor.warm(
            [
                (str(self.dags_dir / file), str(self.sources.path(source_hash, file)), source_hash)
                for file, source_hash in files
                if self.sources.has(source_hash, file)
            ]
        )
        return Progress.IDLE
