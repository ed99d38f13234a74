"""The scheduler's lead: a lease with a fencing token that only ever grows."""

from __future__ import annotations

from dataclasses import dataclass

from shared_state.store import Store


@dataclass(slots=True, frozen=True)
class Lead:
    """Who leads; times in unix milliseconds of server time."""

    owner: str
    token: int
    until_ms: int
    now_ms: int


async def hold_lead(store: Store, owner: str, *, lease_s: float) -> Lead:
    """Takes the lead if it is free, renews it if it is ours; the caller leads if ``owner`` comes back."""
    owner_, token, until_ms, now_ms = await store.run(
        "hold_lease", [store.keys.leader], [owner, round(lease_s * 1000), "hold"]
    )
    return Lead(_text(owner_), token, until_ms, now_ms)


async def release_lead(store: Store, owner: str) -> None:
    """Gives the lead back, if it is ours."""
    await store.run("hold_lease", [store.keys.leader], [owner, 0, "release"])


@dataclass(slots=True, frozen=True)
class Verdict:
    """What a scheduler says of a proposed version: its number, and why it could not run it; empty if it could."""

    number: int = 0
    fault: str = ""


@dataclass(slots=True, frozen=True)
class Word(Verdict):
    """The verdict of the scheduler that leads."""

    owner: str = ""


async def tell_version(store: Store, number: int, fault: str, verdict: Verdict) -> None:
    """Says which version of the configuration the leader runs, why it cannot run the one in force, and what it thinks of the proposed one."""
    told = ("config", number, "fault", fault, "judged", verdict.number, "verdict", verdict.fault)
    await store.command("HSET", store.keys.leader, *told)


async def read_word(store: Store) -> Word | None:
    """What the leading scheduler thinks of the version that it has judged last; None if none leads, or it is of a release without a say."""
    fields = await store.run("read_word", [store.keys.leader])
    if not fields:
        return None
    owner, number, fault = (_text(value) for value in fields)
    return Word(int(number), fault, owner)


async def read_lead(store: Store) -> dict[str, str]:
    """The lease as it stands: owner, token, until, since; and what its holder runs: config, fault, judged, verdict."""
    raw: dict[bytes, bytes] = await store.command("HGETALL", store.keys.leader)
    return {_text(name): _text(value) for name, value in raw.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
