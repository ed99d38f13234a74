"""Who is fit for a call: models that can do what it needs, within the caller's own caps. If nobody is, the error says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from node.call import Call, Caps, Target
from node.providers.web import web_lacks
from node.routing.abilities import APIS, Abilities, abilities_of, floor_of, is_roomy, unfit
from node.routing.bridge import beyond
from node.routing.estimate import estimate, expect
from node.routing.needs import Needs, needs_of, param_of, words_in
from node.routing.strategies import Request
from node.routing.web_needs import ALL_NAMES, WEB_PARAMS
from shared_state.errors import ContextLengthError, RequestError, UnsupportedFeatureError
from shared_state.topology import ModelSpec, PoolSpec, Topology

Members = list[tuple[PoolSpec, list[ModelSpec]]]

#: Obstacles that the caller's own headers raise, and the header of each.
_OF_CAPS: Final = {
    "provider": "x-modelmesh-allow-providers",
    "region": "x-modelmesh-regions",
    "max_price": "x-modelmesh-max-price",
}
_FEATURES: Final = frozenset(ALL_NAMES.values())
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Declared:
    """What is known of a model: its abilities, the region of its provider, whether it has a price."""

    abilities: Abilities
    region: str
    is_priced: bool


class TextFacts:
    """What the filters and strategies know of a call's text. A recorded decision keeps these numbers instead of the text.

    Attributes:
        counted: words, once somebody wanted to know.
        costs: most that an attempt on a model may cost (USD 1e-9), where a cap made somebody ask.
    """

    __slots__ = ("_call", "costs", "counted", "needs")

    def __init__(self, call: Call) -> None:
        self.needs = needs_of(call.fields, call.body_bytes)
        if call.form is not None:
            uploads = call.form.uploads
            self.needs = self.needs._replace(
                images=sum(upload.is_image for upload in uploads),
                file_bytes=max((upload.size_bytes for upload in uploads), default=0),
            )
        if call.surface.wants is not None:
            self.needs = self.needs._replace(wants=self.needs.wants | call.surface.wants(call.fields))
        self.counted: int | None = None
        self.costs: dict[str, int] = {}
        self._call = call

    def look_beyond(self) -> None:
        """Finds what the call cannot say by another API, for there are models that would have to be asked by one."""
        self.needs = self.needs._replace(beyond=beyond(self._call))

    def words(self, most: int) -> int:
        """How many words there are, counted up to ``most``; the first count stands."""
        if self.counted is None:
            self.counted = words_in(self._call.fields, most)
        return self.counted

    def cost_nano(self, model: ModelSpec) -> int:
        """Most that an attempt on a model may cost."""
        cost = self.costs[model.id] = estimate(self._call, model, None).cost_nano
        return cost

    def expected(self) -> Request:
        """What the call will probably use."""
        return expect(self._call)


class Fitness:
    """Judges the models of one topology; what they declare is prepared once."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._declared = {model: _declared(model, topology) for model in topology.models.values()}

    def floor(self, members: Members) -> Abilities:
        """What all members can do: who needs no more than that is served by every one."""
        return floor_of([self._declared[model].abilities for _, models in members for model in models])

    def sift(
        self, call: Call, members: Members, skipped: dict[str, str], text: TextFacts, floor: Abilities
    ) -> Members:
        """The members that are fit; who is not is noted in ``skipped`` with the obstacle.

        Args:
            floor: of the members.

        Raises:
            ContextLengthError: the text is longer than the context window of every member.
            UnsupportedFeatureError: nobody is fit for another reason.
        """
        api = call.surface.api
        if api and api not in floor.apis:
            text.look_beyond()
        if call.caps is None and unfit(floor, text.needs, api) is None:
            return members
        inquiry = _Inquiry(call, self._declared, text)
        kept = [(pool, [model for model in models if inquiry.clears(model)]) for pool, models in members]
        skipped.update(inquiry.obstacles)
        if inquiry.obstacles and not any(models for _, models in kept):
            raise inquiry.error()
        return kept

    def roomy_first(self, targets: list[Target], needs: Needs, floor: Abilities) -> list[Target]:
        """The same targets; those whose context window may turn out too small go last."""
        if is_roomy(floor, needs):
            return targets
        declared = self._declared
        return sorted(targets, key=lambda target: not is_roomy(declared[target.model].abilities, needs))


class _Inquiry:
    """The judgement over the candidates of one call."""

    def __init__(self, call: Call, declared: Mapping[ModelSpec, Declared], text: TextFacts) -> None:
        self.obstacles: dict[str, str] = {}
        self._call = call
        self._declared = declared
        self._text = text

    def clears(self, model: ModelSpec) -> bool:
        """Whether nothing stands in the model's way; else the obstacle is noted."""
        declared = self._declared[model]
        obstacle = unfit(declared.abilities, self._text.needs, self._call.surface.api)
        if obstacle == "context_window" and self._count_words() <= declared.abilities.window:
            obstacle = None
        if obstacle is None and self._call.caps is not None:
            obstacle = _beyond(self._call.caps, self._text, model, declared)
        if obstacle is not None:
            self.obstacles[model.id] = obstacle
        return obstacle is None

    def _count_words(self) -> int:
        least = self._text.needs.input_least
        # More words than tokens fit into any of the windows concerned: nobody needs a larger count.
        return self._text.words(max((w for w in self._windows() if w < least), default=0))

    def _windows(self) -> Iterator[int]:
        return (declared.abilities.window for declared in self._declared.values())

    def error(self) -> RequestError:
        """The answer when nobody is fit: in OpenAI's words for a text that is too long, else by the first feature."""
        kinds = list(dict.fromkeys(self.obstacles.values()))
        told = "; ".join(self._tell(kind) for kind in kinds)
        if kinds == ["context_window"]:
            return ContextLengthError(self._too_long(), param=self._param("context_window"))
        features = [kind for kind in kinds if kind not in _OF_CAPS and kind != "context_window"]
        message = f"no model of {self._call.name!r} is fit for this request: {told}"
        if features:
            return UnsupportedFeatureError(message, param=self._param(features[0]))
        return UnsupportedFeatureError(message, code="no_model_within_caps", param=self._param(kinds[0]))

    def _too_long(self) -> str:
        windows = {
            model.id: declared.abilities.window
            for model, declared in self._declared.items()
            if model.id in self.obstacles
        }
        return (
            f"the maximum context length of {self._call.name!r} is {max(windows.values())} tokens, but the request holds"
            f" more than {min(self._count_words(), self._text.needs.input_least)}; reduce its length"
            f" ({self._tell('context_window')})"
        )

    def _tell(self, kind: str) -> str:
        models = [model for model, obstacle in self.obstacles.items() if obstacle == kind]
        more = f" and {len(models) - _MOST_NAMED} more" if len(models) > _MOST_NAMED else ""
        names = ", ".join(models[:_MOST_NAMED]) + more
        if kind in _OF_CAPS:
            return f"beyond {_OF_CAPS[kind]}: {names}"
        if kind in _FEATURES or kind in APIS:
            return f"no {kind} (asked for by {self._param(kind)!r}): {names}"
        return f"beyond {kind} ({self._param(kind)!r}): {names}"

    def _param(self, kind: str) -> str:
        if kind in APIS:
            return self._text.needs.beyond
        return _OF_CAPS.get(kind) or WEB_PARAMS.get(kind) or param_of(kind, self._call.fields)


def _declared(model: ModelSpec, topology: Topology) -> Declared:
    provider = topology.providers[model.provider]
    return Declared(
        abilities=abilities_of(model.config, apis=provider.apis, web_lacks=web_lacks(model.web)),
        region=(provider.config.region or "").lower(),
        is_priced="pricing" in model.config.model_fields_set,
    )


def _beyond(caps: Caps, text: TextFacts, model: ModelSpec, declared: Declared) -> str | None:
    """The cap that a model breaks; what is not known of it does not keep within a cap."""
    if caps.providers and model.provider not in caps.providers:
        return "provider"
    if caps.regions and declared.region not in caps.regions:
        return "region"
    if caps.max_price_nano is not None:
        most = text.cost_nano(model) if declared.is_priced else None
        if most is None or most > caps.max_price_nano:
            return "max_price"
    return None
