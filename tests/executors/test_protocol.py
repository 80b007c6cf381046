"""Frames arrive whole, in order, however the stream is cut; and hostile ones end the connection."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.executors import protocol
from scheduler.executors.protocol import FRAME_LIMIT, FrameBuffer, PeerError, frame
from scheduler.model import Outcome, OutcomeKind


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 50), max_size=60))
def test_any_cutting_of_the_stream_gives_the_same_frames(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(payload) for payload in payloads)
    buffer, seen, at = FrameBuffer(), [], 0
    for cut in [*cuts, len(stream)]:
        seen += buffer.feed(stream[at : at + cut])
        at += cut
    assert seen == payloads


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    with pytest.raises(PeerError):
        FrameBuffer().feed(struct.pack(">I", FRAME_LIMIT + 1))


def test_a_payload_over_the_limit_is_not_framed() -> None:
    with pytest.raises(ValueError, match="limit"):
        frame(bytes(FRAME_LIMIT + 1))


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"type":"explode"}', b'{"type":"ack"}', b'{"type":"ack","tokens":[1]}', b"\xff"]
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        protocol.decode_from_daemon(payload)
    with pytest.raises(PeerError):
        protocol.decode_from_worker(payload)


def test_an_outcome_survives_the_way() -> None:
    outcome = Outcome(token="t", kind=OutcomeKind.SUCCESS, result='{"a":1}', decision={"followed": ["b"]}, exit_code=0)
    sent = protocol.encode(protocol.Report(outcomes=[outcome]))
    assert protocol.decode_from_worker(sent[4:]) == protocol.Report(outcomes=[outcome])
