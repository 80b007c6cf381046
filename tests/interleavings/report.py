"""What each part did, counted: one line a part, shown at the end of a session."""

from collections import Counter

from attrs import define, field


@define
class Part:
    """The figures of one part; `numbers` appear in the order in which they were first counted."""

    name: str
    numbers: Counter[str] = field(factory=Counter)
    words: dict[str, str] = field(factory=dict)

    def count(self, **by: int) -> None:
        """Add to figures."""
        for what, n in by.items():
            self.numbers[what] += n

    def say(self, **words: object) -> None:
        """Set facts that are not sums: seeds, bounds."""
        self.words.update({what: str(word) for what, word in words.items()})

    def line(self) -> str:
        """All of it, on one line."""
        counted = [f"{n:,} {what.replace('_', ' ')}" for what, n in self.numbers.items()]
        return f"{self.name}: " + ", ".join([*counted, *(f"{what} {word}" for what, word in self.words.items())])


PARTS: dict[str, Part] = {}


def part(name: str) -> Part:
    """The part of that name; a new one when it is first asked for."""
    return PARTS.setdefault(name, Part(name))
