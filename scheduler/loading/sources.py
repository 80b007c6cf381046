"""Pinned copies of DAG files: the text an attempt runs, kept beside the daemon under its hash."""

import os
import tempfile
from pathlib import Path

from attrs import define, field


@define(eq=False)
class PinnedSources:
    """A folder with one folder for each hash. A copy, once there, never changes."""

    folder: Path
    _known: set[Path] = field(factory=set, init=False)

    def path(self, source_hash: str, file: str) -> Path:
        """Where the copy lies, or would; it keeps the file's name, which tracebacks show."""
        assert source_hash.isalnum(), source_hash
        return self.folder / source_hash / Path(file).name

    def has(self, source_hash: str, file: str) -> bool:
        """Is the copy there? Once seen it is not looked for again."""
        path = self.path(source_hash, file)
        if path not in self._known and path.exists():
            self._known.add(path)
        return path in self._known

    def write(self, source_hash: str, file: str, text: str) -> Path:
        """Make the copy, whole or not at all. Raises OSError."""
        path = self.path(source_hash, file)
        if not self.has(source_hash, file):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as copy:
                copy.write(text)
                os.fchmod(copy.fileno(), 0o644)
            Path(name).replace(path)
            self._known.add(path)
        return path
