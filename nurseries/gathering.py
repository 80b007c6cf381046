"""Group commit: what is asked for while a piece of work is under way is done together by the next one.

No task of its own: of those who wait, the first leads. It begins the work, takes what goes together from the head of
the queue as late as the work allows, hands out the answers, and the next in the queue leads. So a lone caller waits
for nobody, and under load batches grow by themselves.

A request is waiting, carried, or answered; from carried it may come back to waiting, never from answered.

Cancelled while it waits, a request is withdrawn: nothing has happened. Cancelled while it is carried, its caller is
held until its fate is known, as if he had carried it himself: the work may be committed already. If it comes back, he
withdraws it then. A leader who is cancelled before the work has begun leaves the lead to the next.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

import trio
from attrs import define, field

Q = TypeVar("Q")
A = TypeVar("A")


class Later:
    """Instead of an answer: not this time. The request keeps its place in the queue."""


LATER = Later()


@define(eq=False)
class _Ticket(Generic[Q, A]):
    request: Q
    alone: bool = False
    is_carried: bool = False
    is_answered: bool = False
    answer: A | Exception | None = None
    changed: trio.Event = field(factory=trio.Event)


@define(kw_only=True, eq=False)
class Gathering(Generic[Q, A]):
    """Carries requests of many callers together, one batch at a time."""

    carry: Callable[[Callable[[], Sequence[Q]]], Awaitable[Sequence[A | Exception | Later]]]
    """Does the work, for the requests it gets from the function it is given: until it calls that, whoever is cancelled
    withdraws, and whoever comes may be taken along. Called again it returns the same.

    One answer for each request, of which the first must not be `LATER`. An exception among the answers is raised for
    that caller. Cancelled must mean that nothing has happened, and so must anything it raises that is not in `shared`:
    then each request is carried once more by itself, so that one which cannot be carried does not fail the others.
    """
    choose: Callable[[Sequence[Q]], int]
    """How many of these go together, from the first on: at least one."""
    shared: tuple[type[Exception], ...] = ()
    """What is raised for everybody."""
    _waiting: list[_Ticket[Q, A]] = field(factory=list, init=False)
    _leader: _Ticket[Q, A] | None = field(default=None, init=False)
    """Always the first of those who wait, or at work."""

    @property
    def is_idle(self) -> bool:
        return self._leader is None and not self._waiting

    async def ask(self, request: Q) -> A:
        """Have it carried; return its answer, or raise what `carry` has raised or answered for it.

        Cancelled means: it was not carried. A cancel that arrives later is felt at the next checkpoint.
        """
        ticket: _Ticket[Q, A] = _Ticket(request)
        self._waiting.append(ticket)
        self._appoint()
        try:
            while not ticket.is_answered:
                if self._leader is ticket:
                    await self._lead(ticket)
                else:
                    await self._wait(ticket)
        finally:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if self._leader is ticket:
                self._leader = None
                self._appoint()
        if isinstance(ticket.answer, Exception):
            raise ticket.answer
        return cast(A, ticket.answer)

    async def _wait(self, ticket: _Ticket[Q, A]) -> None:
        """Until something has changed for it. Raises Cancelled only if it is not carried and not answered."""
        try:
            await ticket.changed.wait()
        except trio.Cancelled:
            while ticket.is_carried:  # again, if it came back and was taken along once more before we could run
                ticket.changed = trio.Event()
                with trio.CancelScope(shield=True):
                    await ticket.changed.wait()
            if not ticket.is_answered:
                raise
        ticket.changed = trio.Event()

    async def _lead(self, leader: _Ticket[Q, A]) -> None:
        batch: list[_Ticket[Q, A]] = []

        def take() -> list[Q]:
            if not batch:
                assert self._waiting[0] is leader
                batch.extend(self._take())
            return [one.request for one in batch]

        try:
            answers = await self.carry(take)
            assert len(answers) == len(batch)
        except Exception as error:
            if len(take()) > 1 and not isinstance(error, self.shared):
                for one in batch:
                    one.alone = True
                self._put_back(batch)
                return
            answers = [error] * len(batch)
        except BaseException:
            self._put_back(batch)
            raise
        left = []
        for one, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Later):
                left.append(one)
            else:
                one.is_carried, one.is_answered, one.answer = False, True, answer
                one.changed.set()
        self._put_back(left)

    def _take(self) -> list[_Ticket[Q, A]]:
        alone = self._waiting[0].alone  # if the first is not, nobody is: those who are come back to the head
        count = 1 if alone else max(1, self.choose([one.request for one in self._waiting]))
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        for one in batch:
            one.is_carried = True
        return batch

    def _put_back(self, batch: Sequence[_Ticket[Q, A]]) -> None:
        self._waiting = [*batch, *self._waiting]
        for one in batch:
            one.is_carried = False
            one.changed.set()  # a caller who was cancelled meanwhile withdraws it

    def _appoint(self) -> None:
        if self._leader is None and self._waiting:
            self._leader = self._waiting[0]
            self._leader.changed.set()
