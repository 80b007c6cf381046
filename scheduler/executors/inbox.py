"""Reports that wait until somebody has committed them."""

from collections.abc import Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar


class HasToken(Protocol):
    """Anything said about one attempt."""

    @property
    def token(self) -> str: ...


T = TypeVar("T", bound=HasToken)


class Inbox(Generic[T]):
    """Items in order of arrival, at most one for each token; they stay until they are removed.

    The reader peeks, commits, then removes: what fails to commit is simply seen again. A repeated report of
    the same attempt (a worker that reconnected) replaces the older one in its place. For one trio thread.
    """

    def __init__(self) -> None:
        self._items: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, token: str) -> bool:
        """Is something said about this attempt?"""
        return token in self._items

    def __repr__(self) -> str:
        return f"<Inbox of {len(self._items)}>"

    def put(self, item: T) -> None:
        """Keep `item` until it is removed."""
        self._items[item.token] = item

    def peek(self, n: int) -> list[T]:
        """The `n` oldest items, which stay."""
        return list(islice(self._items.values(), n))

    def remove(self, items: Iterable[T]) -> None:
        """Forget these; unknown ones are ignored."""
        for item in items:
            self._items.pop(item.token, None)

    def discard(self, token: str) -> None:
        """Forget whatever is said about this attempt."""
        self._items.pop(token, None)
