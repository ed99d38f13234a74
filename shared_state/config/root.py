"""``MeshConfig``: the whole configuration of a cluster, frozen and checked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared_state.config.discovery import DiscoveryConfig
from shared_state.config.limits import BudgetConfig
from shared_state.config.models import ModelConfig
from shared_state.config.observability import (
    EventTargetConfig,
    RequestLogConfig,
    StatisticsConfig,
    TracingConfig,
)
from shared_state.config.pools import PoolConfig
from shared_state.config.providers import ProviderConfig
from shared_state.config.secrets import SecretsConfig
from shared_state.config.storage import StorageConfig
from shared_state.config.values import DurationS, Origin, Secret, Section, SizeBytes


class RedisConfig(Section):
    """Where the shared state lives, and what happens when it is away."""

    url: Secret | None = Field(
        None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://; none: the embedded server of `serve`",
    )
    namespace: str = Field("mm", pattern=r"^[A-Za-z0-9_.-]{1,32}$", description="first part of every key")
    on_loss: Literal["leased", "open", "closed"] = "leased"
    timeout: DurationS = Field(0.25, gt=0, description="deadline of one call, wait for a connection included")

    @property
    def address(self) -> str | None:
        """The URL in the clear, for the one who connects."""
        return self.url.get_secret_value() if self.url is not None else None


class CapabilitiesConfig(Section):
    """Additions to the capability tree."""

    nodes: list[str] = Field(
        default_factory=list, description="full dotted paths; parents are made, leaves promoted"
    )
    aliases: dict[str, str] = Field(default_factory=dict, description="short name -> full path")


class KeysConfig(Section):
    """Client keys."""

    required: bool = Field(False, description="every request needs a client key or one of proxy.auth.tokens")
    pepper: Secret | None = Field(
        None,
        min_length=16,
        description="secret mixed into the digests of keys, 16 characters or more; changing it voids all keys",
    )


class AuthConfig(Section):
    """Static bearer tokens of the proxy; any one of them opens the door."""

    tokens: list[Secret] = Field(default_factory=list)


class CorsConfig(Section):
    """Web pages that may call the APIs of models and read the answers."""

    origins: list[Origin] = Field(
        default_factory=list,
        description="origins as browsers write them (https://app.example); they count as our own where no token is required; `*`: every page, of the APIs of models alone",
    )


class ProxyConfig(Section):
    """The HTTP endpoint of a node."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    max_body: SizeBytes = 32 * 10**6
    auth: AuthConfig = AuthConfig()
    cors: CorsConfig = CorsConfig()


class IdempotencyConfig(Section):
    """Requests with an `Idempotency-Key`: their answers are kept in Redis for repeats."""

    ttl: DurationS = Field(24 * 3600.0, ge=1, description="how long a key and its answer are remembered")
    max_answer: SizeBytes = Field(
        10**6, ge=0, description="a larger answer is not kept; a repeat is refused with 409"
    )


class ServerConfig(Section):
    """The engines under a node."""

    engine: Literal["fast", "stock"] = Field(
        "fast", description="HTTP/1 protocol: ours on httptools, or Hypercorn's"
    )
    upstream: Literal["fast", "stock"] = Field(
        "fast", description="HTTP client: ours on httptools, or aiohttp"
    )
    keep_alive: DurationS = Field(75.0, description="idle time after which a client connection is closed")
    drain: DurationS = Field(30.0, description="longest wait for running requests after SIGTERM")


class SchedulerConfig(Section):
    """The scheduler's timetable."""

    flush_interval: DurationS = Field(60.0, gt=0)
    copy_interval: DurationS = Field(
        10.0, ge=0, description="how often the state is copied to the storage; 0: never, nor restored from it"
    )
    probe_interval: DurationS = Field(
        300.0, description="of pools that say nothing else in recovery.probe_interval"
    )
    forget_after: DurationS = Field(
        259_200.0,
        ge=0,
        description="what Redis holds of domains, providers and models that no configuration has is deleted after this long; 0: never",
    )
    lease: DurationS = Field(10.0, gt=0, description="leadership is lost after this long without renewal")


class DecisionsConfig(Section):
    """Records of why requests went where they did, kept in Redis for a while: `modelmesh explain` and `replay` read them."""

    sample: float = Field(
        0.0, ge=0, le=1, description="part of the requests that are recorded whatever became of them"
    )
    failures: bool = Field(
        True, description="record every request that failed or went beyond its first candidate"
    )
    ttl: DurationS = Field(3600.0, gt=0, description="how long a record is kept")
    max_per_second: float = Field(
        50.0,
        gt=0,
        description="most records of one node, with bursts of ten times as many; more are dropped and counted",
    )


class ObservabilityConfig(Section):
    """What is told about the traffic."""

    decisions: DecisionsConfig = DecisionsConfig()
    events: list[EventTargetConfig] = Field(default_factory=list)
    logging: RequestLogConfig = RequestLogConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    tracing: TracingConfig = TracingConfig()


class MeshConfig(Section):
    """The configuration of a cluster."""

    redis: RedisConfig = RedisConfig()
    secrets: SecretsConfig = SecretsConfig()
    capabilities: CapabilitiesConfig = CapabilitiesConfig()
    providers: dict[str, ProviderConfig] = Field(default_factory=dict)
    models: dict[str, ModelConfig] = Field(default_factory=dict)
    pools: dict[str, PoolConfig] = Field(default_factory=dict)
    budget: BudgetConfig = BudgetConfig()
    keys: KeysConfig = KeysConfig()
    proxy: ProxyConfig = ProxyConfig()
    idempotency: IdempotencyConfig = IdempotencyConfig()
    server: ServerConfig = ServerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    storage: StorageConfig = StorageConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()

    @property
    def flush_interval_s(self) -> float:
        """How often closed statistics are stored, whichever of both sections says it."""
        return self.observability.statistics.flush_interval or self.scheduler.flush_interval
