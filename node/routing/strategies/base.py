"""What a selection strategy is: a pure order over candidates, fed by what the cluster shares.

A strategy of one's own is a class with the members of ``Strategy`` (deriving from it is not required), in a module that every node can
import. The pool names it as ``strategy: package.module:Class``, or by the name of an entry point of the group ``modelmesh.strategies``;
``strategy_options`` become its keyword arguments. It is created once for each pool. What it may rely on:

- ``rank`` is called for every request, with at least one candidate, and must neither wait nor keep anything between calls: what is to be
  remembered is shared by the cluster and comes in as ``Hints``, of which ``needs`` says the costly ones.
- A model on standby is never a candidate. Admission comes afterwards, so the first of the ranking may still be at a limit.
- When it raises, or returns what is no candidate, the pool's own order is used and the fault is logged once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeVar

from node.signals import UNKNOWN, Signal
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import OPTIONS, OrderOptions
from shared_state.topology import ModelSpec

__all__ = ["Hints", "Need", "Options", "Request", "Signal", "Strategy", "options_of"]

Options = TypeVar("Options", bound=OrderOptions)


class Need(StrEnum):
    """What a strategy wants to be told beyond the pool itself."""

    TURN = "turn"
    POINTER = "pointer"
    SIGNALS = "signals"
    SESSION = "session"


class Request(NamedTuple):
    """What is known of a request before it is sent.

    Attributes:
        tokens_in: tokens of the prompt, as they are expected.
        tokens_out: tokens of the answer, as they are expected.
        tokens_known: part of the prompt that an earlier request of the same session held already.
        session: the caller's session, empty for none.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_known: int = 0
    is_stream: bool = False
    session: str = ""


class Hints(NamedTuple):
    """Shared facts that a strategy may need.

    Attributes:
        order: all members of the pool, in pool order.
        turn: this request's number in the pool's cluster-wide sequence (needs ``TURN``).
        current: the model that the pool points at, empty for none (needs ``POINTER``).
        held: the model that the request's session belongs to, empty for none (needs ``SESSION``).
        signals: of every member (needs ``SIGNALS``).
        draw: chance, uniform in [0, 1).
    """

    order: Sequence[ModelSpec]
    turn: int = 0
    current: str = ""
    held: str = ""
    signals: Mapping[str, Signal] = MappingProxyType({})
    draw: float = 0.0

    def signal(self, spec: ModelSpec) -> Signal:
        """A model's signal; one that knows nothing if there is none."""
        return self.signals.get(spec.id, UNKNOWN)


class Strategy(ABC):
    """Ranks candidates, best first; the rest is the fallback chain.

    Attributes:
        id: full id of the catalogue; empty for a strategy of one's own.
        needs: which hints it reads.
    """

    id: ClassVar[str] = ""
    needs: frozenset[Need] = frozenset()

    @abstractmethod
    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """Candidates, best first. Pure: the same arguments give the same order. What is left out is not tried."""

    @classmethod
    def create(cls, pool: PoolConfig, build: Callable[[str], Strategy]) -> Strategy:
        """One for a pool; ``build`` makes another strategy for the same pool."""
        return cls()


def options_of(pool: PoolConfig, strategy: str, kind: type[Options]) -> Options:
    """The strategy's own keys of a pool."""
    assert OPTIONS[strategy] is kind
    said = pool.model_fields_set & kind.model_fields.keys()
    return kind.model_validate({key: getattr(pool, key) for key in said})
