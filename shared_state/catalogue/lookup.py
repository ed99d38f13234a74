"""From a configured name to a catalogue entry, with an answer that helps when there is none."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from shared_state.catalogue.profiles import ConnectorProfile
from shared_state.catalogue.vendors import OTHER_SPELLINGS, UNSPOKEN, VENDORS
from shared_state.config.strategies import OPTIONS, full_id, is_custom, short_name

_PROFILES: Final = {profile.id: profile for profile in VENDORS}
_BY_VENDOR: Final = {profile.provider_name: profile for profile in VENDORS}


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
    """The full id of a selection strategy; its short name will do. A class path or an entry point is its own id.

    Raises:
        CatalogueError: the strategy is unknown.
    """
    full = full_id(name)
    if full in OPTIONS:
        return full
    if is_custom(name):
        return name
    shorts = {short_name(known): known for known in OPTIONS}
    near = get_close_matches(short_name(name), shorts, n=1, cutoff=0.6)
    guess = f"did you mean {shorts[near[0]]!r}? " if near else ""
    raise CatalogueError(
        f"unknown strategy {name!r}; {guess}use one of: {', '.join(OPTIONS)}; or a class path package.module:Class"
    )
