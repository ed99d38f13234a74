"""Discovery: what providers list is compared with what is configured; how well they are is watched."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared_state.config.values import DurationS, Section

_PROVIDERS = "whose; default: all that are enabled"


class SyncConfig(Section):
    """The lists of models that providers publish, and what a change of them brings about."""

    enabled: bool = True
    interval: DurationS = Field(3600.0, gt=0, description="how often each provider's list is read")
    providers: list[str] = Field(default_factory=list, description=_PROVIDERS)
    on_new_model: Literal["register", "notify", "ignore"] = Field(
        "notify",
        description="of models that nobody configured; `register` pushes a version of the configuration that has them",
    )
    on_deprecated_model: Literal["deactivate", "notify", "ignore"] = Field(
        "notify",
        description="of configured models; `deactivate` takes out what is retired or gone from the list, until it is listed again",
    )


class HealthConfig(Section):
    """The availability of providers: by their traffic, and by probes where there is none."""

    enabled: bool = True
    interval: DurationS = Field(60.0, gt=0, description="how often availability is judged")
    timeout: DurationS = Field(10.0, gt=0, description="of a probe, and of reading a list of models")
    failure_threshold: int = Field(
        3, ge=1, description="failed probes in a row that put a provider on standby"
    )
    providers: list[str] = Field(default_factory=list, description=_PROVIDERS)
    method: Literal["lightweight", "standard", "comprehensive"] = Field(
        "lightweight",
        description="of a probe: lightweight asks a silent provider for its list of models, which costs nothing; standard sends a tiny "
        "request to its cheapest model; comprehensive asks for the list, and sends one to every model that is silent",
    )


class DiscoveryConfig(Section):
    """What the scheduler finds out about providers, through the nodes."""

    sync: SyncConfig = SyncConfig()
    health: HealthConfig = HealthConfig()
