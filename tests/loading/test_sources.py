"""Pinned copies: exactly the text, whole or not at all, and never changed."""

import hashlib
from pathlib import Path

from scheduler.loading.sources import PinnedSources

TEXT = "x = 'ä'\r\n"
HASH = hashlib.sha256(TEXT.encode()).hexdigest()


def test_a_copy_has_the_text_byte_for_byte_and_can_be_read_by_others(tmp_path: Path) -> None:
    sources = PinnedSources(tmp_path / "sources")
    assert not sources.has(HASH, "a/b.py")
    path = sources.write(HASH, "a/b.py", TEXT)
    assert path == sources.path(HASH, "a/b.py") == tmp_path / "sources" / HASH / "b.py"
    assert path.read_bytes() == TEXT.encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert PinnedSources(tmp_path / "sources").has(HASH, "a/b.py")
    assert [entry.name for entry in path.parent.iterdir()] == ["b.py"]


def test_a_copy_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path = PinnedSources(tmp_path).write(HASH, "b.py", TEXT)
    before = path.stat()
    assert PinnedSources(tmp_path).write(HASH, "b.py", TEXT) == path
    assert path.stat().st_ino == before.st_ino
