"""How a silent provider is looked at, through a node: its list of models is asked for, or its models are asked one tiny request each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote

from scheduler.nodes import NodeRefusedError, Nodes, NoNodeError
from shared_state.config.discovery import HealthConfig
from shared_state.errors import ModelMeshError
from shared_state.topology import ModelSpec

_AT_ONCE: Final = 8
#: So many models are tried until one may be asked: the others may be at a limit or under an order.
_MOST_TRIED: Final = 3
#: The provider has not answered, or not as a server that is well. All other codes are answers.
_ILL: Final = frozenset(
    {"provider_unavailable", "provider_timeout", "provider_protocol", "deadline_exceeded"}
)
_LIMITED: Final = frozenset({"provider_rate_limited", "provider_quota_exhausted"})
_WELL: Final = _LIMITED | {"models_not_listed", "provider_authentication"}


class Patient(NamedTuple):
    """A provider to be looked at.

    Attributes:
        is_silent: whether it had no traffic; else only its silent models are asked.
        models: those of its models that may be asked for nothing, the cheapest first.
        silent: those of them without traffic.
    """

    provider: str
    is_silent: bool
    models: Sequence[ModelSpec]
    silent: Sequence[str]


@dataclass(slots=True)
class Findings:
    """What was found of one provider.

    Attributes:
        is_well: None where nobody could say.
        models: those that were asked, and whether they are well.
        ok, bad: attempts that the statistics will hold for it, by model.
    """

    is_well: bool | None = None
    models: dict[str, bool] = field(default_factory=dict)
    ok: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)


class Checkups:
    """Looks at providers by the configured method."""

    def __init__(self, nodes: Nodes, rules: HealthConfig) -> None:
        self._nodes = nodes
        self._timeout_s = rules.timeout
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._asks_silent_models = rules.method == "comprehensive"
        self._look: Callable[[Patient, Findings], Awaitable[None]] = {
            "lightweight": self._ask_for_list,
            "standard": self._ask_cheapest,
            "comprehensive": self._ask_everything,
        }[rules.method]

    def wants(self, patient: Patient) -> bool:
        """Whether there is anything to look at."""
        return patient.is_silent or (self._asks_silent_models and bool(patient.silent))

    async def look(self, patients: Sequence[Patient]) -> tuple[dict[str, Findings], ModelMeshError | None]:
        """The findings by provider, and what kept nodes from looking."""
        findings = {patient.provider: Findings() for patient in patients}
        failures: list[ModelMeshError] = []

        async def one(patient: Patient) -> None:
            try:
                await self._look(patient, findings[patient.provider])
            except (NoNodeError, NodeRefusedError) as error:
                failures.append(error)

        await asyncio.gather(*map(one, patients))
        return findings, failures[0] if failures else None

    async def _ask_for_list(self, patient: Patient, findings: Findings) -> None:
        async with self._gate:
            answer = await self._nodes.get(f"providers/{patient.provider}/models", timeout_s=self._timeout_s)
        findings.is_well = True if answer.status == 200 else _verdict(answer.code)

    async def _ask_cheapest(self, patient: Patient, findings: Findings) -> None:
        for model in patient.models[:_MOST_TRIED]:
            if await self._ask_model(model.id, findings):
                findings.is_well = findings.models.get(model.id)
                return
        await self._ask_for_list(patient, findings)

    async def _ask_everything(self, patient: Patient, findings: Findings) -> None:
        """A provider is well whose list is; where that says nothing, one of whose models is."""
        if patient.is_silent:
            await self._ask_for_list(patient, findings)
        await asyncio.gather(*(self._ask_model(model, findings) for model in patient.silent))
        said = findings.models.values()
        if not patient.is_silent:
            findings.is_well = None
        elif said and findings.is_well is not False:
            findings.is_well = any(said)

    async def _ask_model(self, model: str, findings: Findings) -> bool:
        """One tiny request; False if it could not be sent."""
        path = f"models/{quote(model, safe='/')}/probe"
        async with self._gate:
            said = await self._nodes.post(path, {"within": self._timeout_s}, timeout_s=self._timeout_s)
        verdict, code = said.get("verdict"), str(said.get("cause") or "")
        if verdict not in ("well", "rejected", "failed"):
            return False
        is_well = _verdict(code) if verdict == "failed" else True
        if is_well is not None:
            findings.models[model] = is_well
        if verdict == "well":
            findings.ok[model] = 1
        elif verdict == "failed" and code not in _LIMITED and code != "deadline_exceeded":
            findings.bad[model] = 1
        return True


def _verdict(code: str) -> bool | None:
    if code in _WELL:
        return True
    return False if code in _ILL else None
