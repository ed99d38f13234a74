"""Configuration: its sections as models. Loading lives in `shared_state.config.loader`."""

from shared_state.config.limits import LimitsConfig
from shared_state.config.models import ModelConfig, PricingConfig
from shared_state.config.pools import (
    DeactivationConfig,
    FallbacksConfig,
    PoolConfig,
    RecoveryConfig,
    RetryConfig,
)
from shared_state.config.providers import ProviderConfig, TimeoutsConfig
from shared_state.config.root import MeshConfig, RedisConfig
from shared_state.config.version import config_version

__all__ = [
    "DeactivationConfig",
    "FallbacksConfig",
    "LimitsConfig",
    "MeshConfig",
    "ModelConfig",
    "PoolConfig",
    "PricingConfig",
    "ProviderConfig",
    "RecoveryConfig",
    "RedisConfig",
    "RetryConfig",
    "TimeoutsConfig",
    "config_version",
]
