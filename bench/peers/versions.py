"""Which peers there are, and at which versions: versions.toml."""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

FILE = Path(__file__).with_name("versions.toml")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,_-]+\])?==[A-Za-z0-9.!+_-]+")
_BOUND = re.compile(r"(>=|<)(\d+)\.(\d+)")


class BadVersions(ValueError):
    """The file cannot be what was meant; the message says where."""


@frozen(kw_only=True)
class Pin:
    """One peer as it is installed."""

    name: str
    title: str
    python: str
    requirements: tuple[str, ...]
    locked: tuple[str, ...]

    @property
    def version(self) -> str:
        """Of the first requirement, which is the peer itself."""
        return self.requirements[0].partition("==")[2]

    def key(self, python: tuple[int, int]) -> str:
        """The name of an environment with exactly this: another pin is another environment."""
        content = "\n".join([*self.requirements, *self.locked])
        return f"{self.name}-{python[0]}.{python[1]}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"

    def runs_on(self, python: tuple[int, int]) -> bool:
        """Whether an interpreter of this version will do."""
        for sign, major, minor in _BOUND.findall(self.python):
            bound = (int(major), int(minor))
            if (sign == ">=" and python < bound) or (sign == "<" and python >= bound):
                return False
        return True


def load(text: str | None = None) -> Mapping[str, Pin]:
    """All peers by name. Raises BadVersions when something is not pinned to one version, or pinned twice."""
    found = tomllib.loads(FILE.read_text(encoding="utf-8") if text is None else text)
    return {name: _pin(name, fields) for name, fields in found.items()}


def _pin(name: str, fields: Mapping[str, object]) -> Pin:
    try:
        pin = Pin(
            name=name,
            title=str(fields["title"]),
            python=str(fields["python"]),
            requirements=tuple(fields["requirements"]),  # type: ignore[arg-type]
            locked=tuple(fields["locked"]),  # type: ignore[arg-type]
        )
    except (KeyError, TypeError) as error:
        raise BadVersions(f"{name}: {error!r}") from error
    if not pin.requirements:
        raise BadVersions(f"{name}: nothing is required")
    if not all(_BOUND.fullmatch(part.strip()) for part in pin.python.split(",")):
        raise BadVersions(f"{name}: python {pin.python!r} is not a list of >=3.N and <3.N")
    seen: set[str] = set()
    for line in (*pin.requirements, *pin.locked):
        if not _PINNED.fullmatch(line):
            raise BadVersions(f"{name}: {line!r} is not pinned to one version")
        package = re.sub(r"[-_.]+", "-", re.split(r"\[|==", line)[0]).lower()
        if package in seen:
            raise BadVersions(f"{name}: {package} is named twice")
        seen.add(package)
    return pin
