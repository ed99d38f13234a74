"""Events off the wire: another release, or anybody, may publish anything on the channel."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_state.events import Event, decode_event

WIRE = {
    "type": "model_deactivated",
    "time": 1_790_000_000_000,
    "epoch": 7,
    "domain": "alpha",
    "kind": "model",
    "id": "alpha.small",
    "reason": "error_threshold",
    "until": 1_790_000_060_000,
    "node": "n1",
}


def test_an_event_is_read():
    """As ``announce`` in the scripts writes it; numbers may come as floats."""
    event = decode_event(orjson.dumps({**WIRE, "until": 1.79000006e12, "later": "field"}))

    assert event == Event(
        "model_deactivated",
        1_790_000_000_000,
        7,
        "alpha",
        "model",
        "alpha.small",
        "error_threshold",
        1_790_000_060_000,
        "n1",
    )


@pytest.mark.parametrize("field", sorted(WIRE))
def test_an_event_without_one_of_its_fields_is_none(field):
    """Half an event is no hint at all."""
    assert decode_event(orjson.dumps({name: value for name, value in WIRE.items() if name != field})) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"null", b"7", b'"text"', b"[]", b"{}", b"\xff\xfe", b"[" * 2000]
    + [orjson.dumps({**WIRE, "epoch": bad}) for bad in (None, "x", [], {}, "7.5")]
    + [orjson.dumps({**WIRE, "time": 0}).replace(b'"time":0', b'"time":1e999')],
)
def test_garbage_is_no_event(data):
    """Neither broken JSON nor a wrong shape raises."""
    assert decode_event(data) is None


@given(st.binary(max_size=200))
def test_no_bytes_raise(data):
    """Whatever arrives, the listener lives on."""
    decode_event(data)


json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=50)
@given(st.fixed_dictionaries(dict.fromkeys(WIRE, json_values)))
def test_no_values_raise(wire):
    """All the fields, with anything in them."""
    decode_event(orjson.dumps(wire))
