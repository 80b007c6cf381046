"""Reports stay until somebody has committed them."""

from attrs import frozen

from scheduler.executors.inbox import Inbox


@frozen
class Note:
    token: str
    text: str = ""


def test_peeking_takes_nothing_away() -> None:
    inbox: Inbox[Note] = Inbox()
    for token in "abc":
        inbox.put(Note(token))
    assert inbox.peek(2) == [Note("a"), Note("b")]
    assert inbox.peek(10) == [Note("a"), Note("b"), Note("c")]
    assert len(inbox) == 3


def test_removing_is_idempotent_and_ignores_strangers() -> None:
    inbox: Inbox[Note] = Inbox()
    inbox.put(Note("a"))
    inbox.put(Note("b"))
    inbox.remove([Note("a"), Note("z")])
    inbox.remove([Note("a")])
    inbox.discard("nobody")
    assert inbox.peek(10) == [Note("b")]


def test_a_repeated_report_replaces_the_older_one_in_its_place() -> None:
    inbox: Inbox[Note] = Inbox()
    inbox.put(Note("a", "old"))
    inbox.put(Note("b"))
    inbox.put(Note("a", "new"))
    assert inbox.peek(10) == [Note("a", "new"), Note("b")]
