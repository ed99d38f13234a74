"""Followers of typed events and of bytes: first content, the end, usage and failures, whatever pieces they come in."""

from __future__ import annotations

import orjson
import pytest

from node.api.surfaces import IMAGES, MESSAGES, SPEECH, TRANSCRIPTIONS
from node.call import EventShape
from node.providers.sse import StreamTap
from node.providers.taps import BytesTap, TypedTap, open_tap
from node.providers.usage import Usage
from shared_state.errors import ProviderError, ProviderProtocolError, RateLimitError, RejectedRequestError
from tests.unit.node.house import chat
from tests.unit.node.scripted import DONE, event

SHAPE = EventShape(ends=frozenset({"done"}), opening=frozenset({"hello"}))
HELLO = event({"type": "hello"})
WORD = event({"type": "word", "text": 'a "type": "error" of a kind'})
LAST = event({"type": "done", "usage": {"input_tokens": 3, "output_tokens": 5}})


def named(kind: bytes, data: bytes) -> bytes:
    return b"event: %b\r\ndata: %b\r\n\r\n" % (kind, data)


def tap(ends: int = 1) -> TypedTap:
    return TypedTap("alpha", SHAPE, ends=ends)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_stream_is_passed_on_whatever_its_pieces(size: int) -> None:
    """All of it, in order; the usage is read on the way."""
    whole = b": hi\n\n" + HELLO + WORD + named(b"word", b"{}") + WORD.replace(b"\n", b"\r") + LAST
    follower = tap()
    out = [follower.feed(whole[at : at + size]) for at in range(0, len(whole), size)]

    assert b"".join(out) == whole
    assert follower.is_done
    assert follower.usage == Usage(3, 5)
    assert follower.pieces == 5


def test_what_opens_a_stream_is_no_content() -> None:
    """Another model may still answer after it."""
    follower = tap()
    follower.feed(b": hi\n\n" + HELLO)
    assert not follower.has_content
    follower.feed(WORD)

    assert follower.has_content


def test_after_the_first_content_events_are_not_parsed() -> None:
    """Their names tell whether they matter."""
    follower = tap()
    follower.feed(WORD)

    assert follower.feed(named(b"word", b"not JSON")) == named(b"word", b"not JSON")
    with pytest.raises(ProviderProtocolError):
        follower.feed(named(b"done", b"not JSON"))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (event({"type": "error", "code": "rate_limit_exceeded", "message": "slow"}), RateLimitError),
        (event({"type": "error", "error": {"code": "context_length_exceeded"}}), RejectedRequestError),
        (event({"error": {"message": "overloaded"}}), ProviderError),
        (named(b"error", b'{"message": "x"}'), ProviderError),
        (named(b"word", b'{"error": "x"}'), ProviderError),
        (named(b"word", b"[1]"), ProviderProtocolError),
    ],
)
def test_failures_are_understood(failure: bytes, kind: type[ProviderError]) -> None:
    """With or without a name, flat or nested."""
    with pytest.raises(kind):
        tap().feed(failure)


def test_several_answers_have_several_ends() -> None:
    """The stream is done with the last, or with its body."""
    follower = tap(ends=2)
    follower.feed(LAST)
    assert not follower.is_done
    follower.feed(LAST)
    assert follower.is_done
    fewer = tap(ends=2)
    fewer.feed(LAST)
    fewer.finish()

    assert fewer.is_done
    assert follower.usage == Usage(6, 10)


def test_a_stream_without_its_last_event_is_broken() -> None:
    """Unless its body ends within that event, or an end marker stands in its place."""
    with pytest.raises(ProviderProtocolError, match="without its last event"):
        tap().finish()
    short, marked = tap(), tap()
    short.feed(WORD + LAST[:-2])
    marked.feed(WORD + DONE)

    assert short.finish() == LAST
    assert short.is_done
    assert marked.is_done


def test_bytes_are_content() -> None:
    """From the first on, to the end of the body."""
    follower = BytesTap("alpha")
    assert follower.feed(b"") == b""
    assert not follower.has_content
    assert follower.feed(b"x") == b"x"
    assert follower.has_content
    assert not follower.is_done
    follower.finish()

    assert follower.is_done


async def test_each_call_has_its_follower() -> None:
    """By its surface, and by what it asks for."""
    kinds = [
        type(open_tap(chat(surface=surface, **fields), "alpha"))
        for surface, fields in (
            (chat().surface, {"stream": True}),
            (SPEECH, {}),
            (SPEECH, {"stream_format": "sse"}),
            (IMAGES, {"stream": True}),
            (TRANSCRIPTIONS, {"stream": True}),
        )
    ]

    assert kinds == [StreamTap, BytesTap, TypedTap, TypedTap, TypedTap]


def test_a_sign_of_life_is_no_progress() -> None:
    """Whoever sends nothing else has come to a halt; usage may come in parts."""
    assert MESSAGES.events is not None
    follower = TypedTap("alpha", MESSAGES.events)
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
    follower.feed(named(b"message_start", orjson.dumps(start)))
    follower.feed(named(b"ping", b'{"type":"ping"}') * 2)
    assert not follower.has_content
    follower.feed(named(b"content_block_delta", b"{}"))
    pieces = follower.pieces
    follower.feed(named(b"ping", b'{"type":"ping"}') * 2)

    assert follower.has_content
    assert follower.pieces == pieces
    usage = {"input_tokens": None, "cache_read_input_tokens": 2, "output_tokens": 9}
    follower.feed(named(b"message_delta", orjson.dumps({"usage": usage})))
    assert not follower.is_done
    follower.feed(named(b"message_stop", b"{}"))
    assert follower.is_done
    assert follower.usage == Usage(5, 9, 2)
