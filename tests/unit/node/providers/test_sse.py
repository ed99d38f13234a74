"""Event streams: whatever pieces they come in, bytes pass unchanged and the tap sees the same things."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.providers.sse import MAX_EVENT_BYTES, EventSplitter, StreamTap, event_data
from node.providers.usage import Usage
from shared_state.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    RejectedRequestError,
)
from tests.unit.node.scripted import COMMENT, DONE, FAILED, FINISH, ROLE, USAGE, chunk, event

NULL_USAGE = event({"choices": [{"delta": {"content": "x"}}], "usage": None})
MULTI_LINE = b'event: chunk\ndata: {"choices": [{"delta":\ndata:  {"content": "a"}}]}\nid: 7\n\n'
NO_SPACE = b'data:{"choices":[{"delta":{"content":"b"}}]}\n\n'
UNICODE = chunk("Grüße 🦉")
PLAIN = ROLE + chunk("one") + COMMENT + UNICODE + MULTI_LINE + NO_SPACE + FINISH

STREAMS = {
    "lf": PLAIN + DONE,
    "crlf": (PLAIN + DONE).replace(b"\n", b"\r\n"),
    "cr": (PLAIN + DONE).replace(b"\n", b"\r"),
    "comments first": COMMENT * 3 + PLAIN + DONE,
    "usage null": ROLE + NULL_USAGE + FINISH + DONE,
    "content that speaks of markers": chunk('"error": {"usage": {} } [DONE] data: x') + FINISH + DONE,
    "blank lines between": ROLE + b"\n" + chunk("one") + b"\n\n" + DONE,
}


def run(pieces: Iterable[bytes], *, hide_usage: bool = True) -> tuple[bytes, StreamTap]:
    """What a tap passes on of a whole stream."""
    tap = StreamTap("alpha", hide_usage=hide_usage)
    out = b"".join([tap.feed(piece) for piece in pieces])
    return out + tap.finish(), tap


def in_two(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Every way to cut a stream once."""
    return ((data[:at], data[at:]) for at in range(len(data) + 1))


def single_bytes(data: bytes) -> list[bytes]:
    """A stream that drips."""
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("name", STREAMS)
def test_every_split_passes_the_same_bytes_and_sees_the_same(name: str) -> None:
    """A stream passes unchanged wherever the network cuts it, and counts the same."""
    data = STREAMS[name]
    _, reference = run(single_bytes(data))
    assert reference.has_content
    assert reference.is_done

    for pieces in in_two(data):
        out, tap = run(pieces)
        assert out == data
        assert (tap.has_content, tap.is_done, tap.pieces, tap.usage) == (True, True, reference.pieces, None)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_usage_that_the_caller_did_not_ask_for_is_taken_out(newline: bytes) -> None:
    """Exactly the usage event is missing, at every split position, and its numbers are known."""
    before, hidden, after = (
        part.replace(b"\n", newline) for part in (ROLE + chunk("one") + FINISH, USAGE, DONE)
    )

    for pieces in in_two(before + hidden + after):
        out, tap = run(pieces)
        assert out == before + after
        assert tap.usage == Usage(7, 3)
        assert tap.pieces == 3


def test_usage_that_the_caller_asked_for_passes() -> None:
    """A caller with include_usage gets the event as it came."""
    data = ROLE + chunk("one") + FINISH + USAGE + DONE

    for pieces in in_two(data):
        out, tap = run(pieces, hide_usage=False)
        assert out == data
        assert tap.usage == Usage(7, 3)


def test_usage_beside_content_passes_and_counts_as_progress() -> None:
    """Some providers report usage with each piece of content; hiding it would hide the content."""
    with_usage = event(
        {
            "choices": [{"delta": {"content": "x"}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
    )
    data = with_usage * 4 + DONE

    out, tap = run([with_usage, with_usage, with_usage, with_usage, DONE])

    assert out == data
    assert tap.pieces == 4


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_a_last_event_without_its_blank_line_is_completed(newline: bytes) -> None:
    """The end of the body ends the last event as well."""
    data = (chunk("one") + b"data: [DONE]").replace(b"\n", newline)

    for pieces in in_two(data):
        out, tap = run(pieces)
        assert out == data + b"\n\n"
        assert tap.is_done


@pytest.mark.parametrize("tail", [b"", COMMENT, FINISH, b"data: [DON"], ids=["", "comment", "finish", "half"])
def test_a_stream_without_its_end_marker_is_truncated(tail: bytes) -> None:
    """Whatever the status said, the end of the body alone is no end."""
    tap = StreamTap("alpha", hide_usage=True)
    tap.feed(chunk("one") + tail)

    with pytest.raises(ProviderProtocolError, match=r"without \[DONE\]"):
        tap.finish()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "busy", "type": "overloaded_error"}, ProviderUnavailableError),
        ("busy", ProviderUnavailableError),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, RateLimitError),
        ({"message": "slow down", "code": 429}, RateLimitError),
        ({"message": "pay", "type": "insufficient_quota"}, QuotaExhaustedError),
        ({"message": "too long", "code": "context_length_exceeded"}, RejectedRequestError),
        ({"message": "no", "type": "invalid_request_error"}, RejectedRequestError),
    ],
)
@pytest.mark.parametrize("before", [b"", ROLE, chunk("one")], ids=["first", "after role", "after content"])
def test_an_error_event_is_raised_wherever_it_comes(
    before: bytes, error: object, kind: type[ProviderError]
) -> None:
    """An error inside a 200 is an error, at every split position, and is never passed on."""
    failure = event({"error": error})

    for pieces in in_two(failure):
        tap = StreamTap("alpha", hide_usage=True)
        assert tap.feed(before) == before
        with pytest.raises(kind):
            tap.feed(pieces[0])
            tap.feed(pieces[1])


def test_nothing_of_a_piece_with_an_error_passes() -> None:
    """What came in the same piece before the error may be lost, but never doubled."""
    tap = StreamTap("alpha", hide_usage=True)

    with pytest.raises(ProviderUnavailableError):
        tap.feed(ROLE + FAILED + DONE)
    assert not tap.is_done


@pytest.mark.parametrize("data", [b"oops", b"[1]", b'"text"', b"7", b"{", b'{"a":}'])
def test_an_event_that_is_no_json_object_is_refused_before_content(data: bytes) -> None:
    """Before the first content every event is understood, or another model answers."""
    tap = StreamTap("alpha", hide_usage=True)

    with pytest.raises(ProviderProtocolError):
        tap.feed(b"data: " + data + b"\n\n")


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"role": "assistant", "content": "", "tool_calls": []}}]},
        {"choices": []},
        {"choices": None},
        {"choices": [None, "x", {"delta": None}]},
        {"error": None, "prompt_filter_results": [{"severity": "safe"}]},
        {},
    ],
)
def test_what_can_be_taken_back_is_no_content(fields: object) -> None:
    """Roles, empty deltas and annotations leave the way to another model open."""
    tap = StreamTap("azure", hide_usage=True)

    tap.feed(event(fields))

    assert not tap.has_content


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"content": "x"}},
        {"delta": {"tool_calls": [{"index": 0}]}},
        {"delta": {"reasoning_content": "hm"}},
        {"delta": {}, "finish_reason": "content_filter"},
        {"text": "x"},
    ],
)
def test_what_a_caller_can_see_is_content(choice: object) -> None:
    """From the first visible thing on nobody else may answer."""
    tap = StreamTap("alpha", hide_usage=True)

    tap.feed(event({"choices": [{"delta": {"role": "assistant"}}, choice]}))

    assert tap.has_content


def test_comments_are_not_counted() -> None:
    """A comment keeps a connection alive and proves nothing about the provider."""
    tap = StreamTap("alpha", hide_usage=True)

    for _ in range(3):
        tap.feed(COMMENT)
    assert tap.pieces == 0
    tap.feed(chunk("one"))
    tap.feed(COMMENT)

    assert tap.pieces == 1


def test_events_that_were_cut_in_two_pass_like_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that comes in large pieces is cut anywhere; only what says something is looked at by itself."""
    looked_at, look = [], StreamTap._passes
    monkeypatch.setattr(StreamTap, "_passes", lambda tap, event: looked_at.append(event) or look(tap, event))
    data = ROLE + chunk("word") * 1000 + FINISH + DONE
    out, tap = run(data[at : at + 4096] for at in range(0, len(data), 4096))

    assert out == data
    assert tap.pieces == 1002
    assert len(looked_at) < 20


def test_an_endless_event_is_refused() -> None:
    """A provider cannot make a node keep more than one megabyte of an event."""
    tap = StreamTap("alpha", hide_usage=True)
    tap.feed(b"data: " + b"x" * (MAX_EVENT_BYTES - 100))

    with pytest.raises(ProviderProtocolError, match="1 MiB"):
        tap.feed(b"x" * 200)


def test_a_large_event_in_small_pieces_is_cheap() -> None:
    """What was searched for an end before is not searched again; else a megabyte would stop the node for seconds."""
    splitter, piece = EventSplitter(), b"x" * 1024
    began = time.process_time()

    for _ in range(1000):
        splitter.feed(piece)
    events = splitter.feed(b"\n\n")

    assert len(events[0]) == 1000 * 1024 + 2
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\r\n\r\n", b"a"),
        (b"data:  a\r\r", b" a"),
        (b"event: x\ndata: a\nid: 1\ndata: b\n\n", b"a\nb"),
        (b"\ndata: a\n\n", b"a"),
        (b": data: a\n\n", b""),
        (b"metadata: a\n\n", b""),
        (b"data:\n\n", b""),
    ],
)
def test_data_of_an_event_follows_the_standard(raw: bytes, data: bytes) -> None:
    """One optional space, several lines joined, other fields and comments ignored."""
    assert event_data(raw) == data


_EVENTS = st.sampled_from(
    [ROLE, chunk("one"), UNICODE, COMMENT, MULTI_LINE, NO_SPACE, NULL_USAGE, FINISH, USAGE]
)


@given(
    events=st.lists(_EVENTS, max_size=8),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    hide=st.booleans(),
)
def test_only_the_hidden_usage_is_ever_missing(
    events: list[bytes], newline: bytes, cuts: list[int], hide: bool
) -> None:
    """For any stream and any cuts: what passes is what came, minus the hidden usage."""
    sent = [event.replace(b"\n", newline) for event in [*events, DONE]]
    hidden = USAGE.replace(b"\n", newline)
    data = b"".join(sent)
    at = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})

    out, tap = run((data[a:b] for a, b in zip(at, at[1:], strict=False)), hide_usage=hide)

    assert out == b"".join(event for event in sent if not (hide and event == hidden))
    assert tap.is_done
    assert (tap.usage is not None) == (USAGE in events)


_FRAGMENTS = st.sampled_from(
    [
        b"data: ",
        b"\n\n",
        b"\r",
        b"{",
        b"}",
        b'"error": {',
        b'"usage": {',
        b'"choices": [',
        b"]",
        b"[DONE]",
        b"null",
    ]
)


@given(st.lists(st.one_of(st.binary(max_size=20), _FRAGMENTS), max_size=20))
def test_garbage_raises_nothing_but_provider_errors(pieces: list[bytes]) -> None:
    """Whatever a provider sends, the errors are ours."""
    tap = StreamTap("alpha", hide_usage=True)

    try:
        for piece in pieces:
            tap.feed(piece)
        tap.finish()
    except ProviderError as error:
        assert error.status in (0, 400, 429, 500)


# -- tokens of a stream that reports none

SENTENCE = "The committee considers its answer to yesterday's question before it votes on the matter. "
FOREIGN = "今天天气很好，我们一起去公园散步吧。"
TOOL = {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Paris", "unit": "celsius", '}}]}


def seen(*events: bytes, ending: bytes = DONE) -> StreamTap:
    """What a tap knows after such events."""
    _, tap = run([ROLE + b"".join(events) + FINISH + ending])
    return tap


def test_an_event_for_each_token_counts_events() -> None:
    """The usual stream: short words, each in an event of its own."""
    tap = seen(*(chunk(word) for word in (" the", " cat", " sat", " on", " it") * 20))

    assert tap.pieces == 102
    assert 102 <= tap.tokens <= 125


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        ([chunk(SENTENCE)] * 30, 30 * 15),
        ([chunk(SENTENCE * 30)], 30 * 15),
        ([chunk("a"), chunk(SENTENCE * 29)], 29 * 15),
        ([chunk(FOREIGN)] * 30, 30 * 12),
        ([event({"id": "c1", "choices": [{"index": 0, "delta": TOOL}]})] * 30, 30 * 10),
    ],
    ids=["sentences", "all at once", "a word first", "chinese", "tool arguments"],
)
def test_events_of_many_tokens_count_their_text(events: list[bytes], tokens: int) -> None:
    """Never fewer than a tokenizer makes of it, nor more than three times as many."""
    assert tokens <= seen(*events).tokens <= 3 * tokens


@pytest.mark.parametrize("hide_usage", [False, True])
def test_the_estimate_does_not_depend_on_the_cuts_nor_on_other_events(hide_usage: bool) -> None:
    """Only the text counts: not what came before it, the comments, the usage or the end."""
    data = ROLE * 3 + chunk(SENTENCE) * 4 + FINISH + DONE
    _, whole_tap = run([data])
    _, with_usage = run([data.replace(DONE, USAGE + DONE)], hide_usage=hide_usage)

    assert {run(pieces)[1].tokens for pieces in in_two(data)} == {whole_tap.tokens}
    assert run(single_bytes(data))[1].tokens == whole_tap.tokens
    assert with_usage.tokens == whole_tap.tokens
