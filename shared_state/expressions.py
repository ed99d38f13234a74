"""Small expressions over named facts, for configurations: Python's syntax, but only what cannot do harm.

Literals, names, comparisons, ``in``, arithmetic, ``and or not``, ``min max abs``, ``x if y else z``; anything else is refused
with its place. What cannot be computed is ``None``: arithmetic and order with an unknown value, a division by zero.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping, Set
from difflib import get_close_matches
from typing import Any, Final

Facts = Mapping[str, Any]

_LONGEST: Final = 2000
_DEEPEST: Final = 50
_NUMBERS: Final = (int, float)
_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, holder: item in holder,
    ast.NotIn: lambda item, holder: item not in holder,
}
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_CALLS: Final[Mapping[str, Callable[..., Any]]] = {"min": min, "max": max, "abs": abs}
_FEWEST: Final = {"min": 2, "max": 2, "abs": 1}
_ACCEPTED: Final = (
    "accepted are literals, names, comparisons, in, + - * / // %, and or not, if else, min max abs"
)
#: What follows from values that do not go together.
_INCOMPUTABLE: Final = (TypeError, ValueError, ArithmeticError)


class ExpressionError(ValueError):
    """The text is no expression of this language; the message tells the place."""


class Expression:
    """A checked expression.

    Attributes:
        names: the facts that it asks for, such as ``features.vision``.
    """

    def __init__(self, text: str, *, known: Set[str]) -> None:
        """Checks ``text``.

        Args:
            known: names of all facts.

        Raises:
            ExpressionError: it cannot be parsed, holds something else than is accepted, or asks for an unknown fact.
        """
        self.text = text
        self._tree = _parse(text)
        self.names = frozenset(_check(self._tree, known))

    def bind(self, facts: Facts) -> Bound:
        """The expression with some facts filled in: whatever depends on them alone is computed now."""
        return _bind(self._tree, facts)


class Bound:
    """An expression with some facts filled in.

    Attributes:
        value: its value for the remaining facts; never raises.
        is_constant: whether nothing remains.
    """

    __slots__ = ("is_constant", "value")

    def __init__(self, value: Callable[[Facts], Any], *, is_constant: bool = False) -> None:
        self.value = value
        self.is_constant = is_constant


# -- checking


def _parse(text: str) -> ast.expr:
    if not text.strip():
        raise ExpressionError("is empty")
    if len(text) > _LONGEST:
        raise ExpressionError(f"has {len(text)} characters; at most {_LONGEST} are accepted")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Brackets let it go over several lines; in one line they keep the place of an error there.
            return ast.parse(f"({text}\n)" if "\n" in text else f"({text})", mode="eval").body
    except SyntaxError as error:
        where = _place(error.lineno or 1, (error.offset or 1) - 1)
        raise ExpressionError(f"{where}: {error.msg}; {_ACCEPTED}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"cannot be parsed; {_ACCEPTED}") from None


def _place(line: int, column: int) -> str:
    """``column`` counts from 0, with the bracket that was put before the text."""
    shown = max(1, column if line == 1 else column + 1)
    return f"column {shown}" if line == 1 else f"line {line}, column {shown}"


def _refuse(node: ast.expr, message: str) -> ExpressionError:
    return ExpressionError(f"{_place(node.lineno, node.col_offset)}: {message}")


def _check(node: ast.expr, known: Set[str], depth: int = 0) -> Set[str]:
    """The names that a tree asks for."""
    if depth > _DEEPEST:
        raise _refuse(node, f"is nested deeper than {_DEEPEST} levels")
    name = _dotted(node)
    if name is not None:
        if name not in known:
            near = get_close_matches(name, [*known, "True", "False", "None"], n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise _refuse(node, f"unknown name {name!r}; {hint}")
        return {name}
    names: set[str] = set()
    for part in _parts(node):
        names |= _check(part, known, depth + 1)
    return names


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    return None


def _parts(node: ast.expr) -> list[ast.expr]:
    """The operands of a node that is accepted."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return []
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts) | ast.BoolOp(values=parts):
            return parts
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=inner):
            return [inner]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return [left, right]
        case ast.Compare(left=left, comparators=others):
            return [left, *others]
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return [test, body, orelse]
        case ast.Call(func=ast.Name(id=function), args=parts, keywords=[]) if _can_call(function, len(parts)):
            return parts
    raise _refuse(node, f"{_spoken(node)} is not accepted; {_ACCEPTED}")


def _can_call(function: str, arguments: int) -> bool:
    fewest = _FEWEST.get(function)
    return arguments == 1 if fewest == 1 else fewest is not None and arguments >= fewest


def _spoken(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and (name := _dotted(node.func)):
        return f"{name!r}, called like this,"
    kind = type(node.op) if isinstance(node, ast.BinOp | ast.UnaryOp) else type(node)
    return kind.__name__


# -- binding


def _bind(node: ast.expr, facts: Facts) -> Bound:
    name = _dotted(node)
    if name is not None:
        if name in facts:
            return _constant(facts[name])
        return Bound(lambda live: live.get(name))
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    parts = [_bind(part, facts) for part in _parts(node)]
    computed = Bound(_computation(node, [part.value for part in parts]))
    return _constant(computed.value({})) if all(part.is_constant for part in parts) else computed


def _constant(value: Any) -> Bound:
    return Bound(lambda _: value, is_constant=True)


def _computation(node: ast.expr, parts: list[Callable[[Facts], Any]]) -> Callable[[Facts], Any]:
    match node:
        case ast.BoolOp(op=op):
            return _junction(parts, stops_at=isinstance(op, ast.Or))
        case ast.UnaryOp(op=ast.Not()):
            return lambda live: not parts[0](live)
        case ast.UnaryOp(op=sign):
            return _on_numbers(_UNARY[type(sign)], parts)
        case ast.BinOp(op=arithmetic):
            return _on_numbers(_ARITHMETIC[type(arithmetic)], parts)
        case ast.Call(func=ast.Name(id=function)):
            return _on_numbers(_CALLS[function], parts)
        case ast.Compare(ops=ops):
            return _comparison([_COMPARISONS[type(op)] for op in ops], parts)
        case ast.IfExp():
            return lambda live: parts[1](live) if parts[0](live) else parts[2](live)
    return lambda live: tuple(part(live) for part in parts)


def _junction(parts: list[Callable[[Facts], Any]], *, stops_at: bool) -> Callable[[Facts], Any]:
    def evaluate(live: Facts) -> Any:
        value: Any = None
        for part in parts:
            value = part(live)
            if bool(value) is stops_at:
                break
        return value

    return evaluate


def _on_numbers(function: Callable[..., Any], parts: list[Callable[[Facts], Any]]) -> Callable[[Facts], Any]:
    def evaluate(live: Facts) -> Any:
        values = [part(live) for part in parts]
        if not all(isinstance(value, _NUMBERS) for value in values):
            return None
        try:
            return function(*values)
        except _INCOMPUTABLE:
            return None

    return evaluate


def _comparison(
    tests: list[Callable[[Any, Any], Any]], parts: list[Callable[[Facts], Any]]
) -> Callable[[Facts], Any]:
    """A chain such as ``1 < x <= 5``; without an answer it is ``None``, which counts as no."""

    def evaluate(live: Facts) -> Any:
        left = parts[0](live)
        for test, part in zip(tests, parts[1:], strict=True):
            right = part(live)
            try:
                if not test(left, right):
                    return False
            except _INCOMPUTABLE:
                return None
            left = right
        return True

    return evaluate
