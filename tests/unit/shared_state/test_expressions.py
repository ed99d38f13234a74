"""The language of `where` and `score`: what it computes, what it refuses and where, and that nothing makes it raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_state.expressions import Expression, ExpressionError

FACTS = {
    "id": "alpha.small",
    "size": 128_000,
    "free": None,
    "price.input": 0.5,
    "tags": frozenset({"chat"}),
    "on": True,
}


def value(text: str, **live: object) -> object:
    return Expression(text, known=FACTS.keys() | live.keys()).bind(FACTS).value(live)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size", 128_000),
        ("price.input * 2 + 1", 2.0),
        ("-size // 1000 % 7", -128_000 // 1000 % 7),
        ("1 < 2 <= 2", True),
        ("1 < 2 < 2", False),
        ("'chat' in tags and 'x' not in tags", True),
        ("id in ['alpha.small', 'b']", True),
        ("'small' in id", True),
        ("size >= 100000 and price.input < 1", True),
        ("5 if on else 1 / 0", 5),
        ("max(price.input, 1, 0.2)", 1),
        ("min(3, 2) + abs(-1)", 3),
        ("not on", False),
        ("free is None", True),
        ("free or 7", 7),
        ("(\n size >\n 5 # enough\n)", True),
    ],
)
def test_values(text, expected):
    """Python's meaning, for the part of it that is accepted."""
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "free + 1",
        "free > 5",
        "-free",
        "max(free, 1)",
        "1 / 0",
        "id + 'x'",
        "id * 3",
        "5 in free",
        "'a' < 1",
        "[] in tags",
    ],
)
def test_what_cannot_be_computed_is_unknown(text):
    """An unknown value, a wrong kind of value: no answer, and no error."""
    assert not value(text)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "", "empty"),
        ("size >", "column", "accepted are"),
        ("prize.input > 1", "column 1", "did you mean 'price.input'"),
        ("1 + sise", "column 5", "did you mean 'size'"),
        ("size > 1 and\n  nope", "line 2, column 3", "unknown name 'nope'"),
        ("2 ** 99", "column 1", "Pow is not accepted"),
        ("1 << 9", "column 1", "LShift"),
        ("lambda: 1", "column 1", "Lambda"),
        ("[x for x in tags]", "column 1", "ListComp"),
        ("tags[0]", "column 1", "Subscript"),
        ("f'{id}'", "column 1", "JoinedStr"),
        ("(x := 1)", "column", "accepted are"),
        ("open('x')", "column 1", "'open', called like this"),
        ("id.upper()", "column 1", "'id.upper', called like this"),
        ("min(1)", "column 1", "'min', called like this"),
        ("max(*tags)", "column", "accepted are"),
        ("abs(1).real", "column 1", "Attribute"),
        ("().__class__", "column 1", "Attribute"),
        ("id.__class__", "column 1", "unknown name"),
        ("1j", "column 1", "Constant"),
        ("b'x'", "column 1", "Constant"),
        ("...", "column 1", "Constant"),
        ("~1", "column 1", "Invert"),
        ("{'a': 1}", "column 1", "Dict"),
        ("1" + " + 1" * 60, "", "nested deeper"),
        ("x" * 3000, "", "at most"),
        ("(" * 900 + "1" + ")" * 900, "", "accepted are"),
    ],
)
def test_anything_else_is_refused_with_its_place(text, place, says):
    """Before anything is evaluated; the message helps."""
    with pytest.raises(ExpressionError) as caught:
        Expression(text, known=FACTS.keys())
    assert str(caught.value).startswith(place)
    assert says in str(caught.value)


def test_what_is_known_is_computed_once():
    """Only live facts are left for later."""
    expression = Expression("size > 5 and fails < 3", known=FACTS.keys() | {"fails"})
    half = expression.bind(FACTS)

    assert expression.names == {"size", "fails"}
    assert not half.is_constant
    assert [half.value({"fails": fails}) for fails in (0, 3)] == [True, False]
    assert Expression("size > 5", known=FACTS.keys()).bind(FACTS).is_constant


_OPERANDS = st.sampled_from(
    ["size", "free", "price.input", "tags", "id", "on", "0", "1.5", "'x'", "None", "[]", "10**0"[:2]]
)
_PIECES = st.recursive(
    _OPERANDS,
    lambda inner: (
        st.tuples(
            inner,
            st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", "in", "not in", "and", "or", "is"]),
            inner,
        ).map(lambda parts: f"({' '.join(parts)})")
        | inner.map(lambda part: f"abs({part})")
        | st.tuples(inner, inner).map(lambda parts: f"max({parts[0]}, {parts[1]})")
    ),
    max_leaves=12,
)


@given(_PIECES)
def test_an_accepted_expression_never_raises(text):
    """Whatever is put together of accepted parts has a value."""
    value(text)


@given(st.text(max_size=40) | st.text(alphabet="size()[]{}'\"\\.,:=+-*/<> \n#0123", max_size=40))
def test_no_text_does_worse_than_be_refused(text):
    """Whatever somebody writes."""
    try:
        value(text)
    except ExpressionError as error:
        assert str(error)
