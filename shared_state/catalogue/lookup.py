"""From a configured name to a catalogue entry, with an answer that helps when there is none."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Final

from shared_state.catalogue.profiles import ConnectorProfile
from shared_state.catalogue.vendors import OTHER_SPELLINGS, UNSPOKEN, VENDORS

_PROFILES: Final = {profile.id: profile for profile in VENDORS}
_BY_VENDOR: Final = {profile.provider_name: profile for profile in VENDORS}

_OBEYED_STRATEGIES: Final = ("modelmesh.stick-until-failure.v1", "modelmesh.round-robin.v1")
_OTHER_STRATEGIES: Final = (
    "modelmesh.priority-selection.v1",
    "modelmesh.cost-first.v1",
    "modelmesh.latency-first.v1",
    "modelmesh.session-stickiness.v1",
    "modelmesh.rate-limit-aware.v1",
    "modelmesh.load-balanced.v1",
)
_CLASS_PATH: Final = re.compile(r"[A-Za-z_][\w.]*[.:][A-Z]\w*")


class CatalogueError(LookupError):
    """The name has no entry that this release can use; the text says which would do."""


def spoken_profiles() -> tuple[ConnectorProfile, ...]:
    """Every provider that this release can talk to."""
    return VENDORS


def connector_profile(name: str) -> ConnectorProfile:
    """The profile for a catalogue id; ``provider.<id>`` and the vendor's bare name will do.

    Raises:
        CatalogueError: the id is unknown, or its wire format is not spoken yet.
    """
    short = name.removeprefix("provider.")
    short = OTHER_SPELLINGS.get(short, short)
    profile = _PROFILES.get(short) or _BY_VENDOR.get(short)
    if profile is not None:
        return profile
    if short in UNSPOKEN or any(known.startswith(f"{short}.") for known in UNSPOKEN):
        raise CatalogueError(f"connector {name!r} is known but not spoken by this release yet")
    known = ", ".join(_PROFILES)
    near = get_close_matches(short, list(_PROFILES), n=1, cutoff=0.6)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise CatalogueError(f"unknown connector {name!r}; {guess}known: {known}")


def selection_strategy(name: str) -> str:
    """The full id of a selection strategy; its short name will do.

    Raises:
        CatalogueError: the strategy is unknown, or not obeyed yet.
    """
    short = name.removeprefix("rotation.").removeprefix("modelmesh.").removesuffix(".v1")
    full = f"modelmesh.{short}.v1"
    if full in _OBEYED_STRATEGIES:
        return full
    accepted = ", ".join(_OBEYED_STRATEGIES)
    if full in _OTHER_STRATEGIES:
        raise CatalogueError(
            f"strategy {name!r} is known but not obeyed by this release yet; use one of: {accepted}"
        )
    if _CLASS_PATH.fullmatch(name):
        raise CatalogueError(
            f"class paths such as {name!r} are not obeyed by this release yet; use one of: {accepted}"
        )
    raise CatalogueError(f"unknown strategy {name!r}; use one of: {accepted}")
