"""What a request says of its way so far: the passport of another router, the count of an SDK that sends it again."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

from node.api.body import headers_of
from node.passport import FRESH, HEADER, MOST_ATTEMPTS, MOST_HOPS, Passport, parse
from shared_state.errors import LoopDetectedError, RequestError

#: Sent by the official OpenAI and Anthropic SDKs with every request: 0, then 1, 2 ...
_REPEATS: Final = b"x-stainless-retry-count"
PASSPORT_HEADERS: Final = frozenset({HEADER, _REPEATS})


def read_passport(scope: Scope) -> Passport:
    """The passport of a request; a fresh one if it brings none.

    Raises:
        RequestError: it brings one that cannot be understood.
        LoopDetectedError: it has passed too many routers.
    """
    headers = headers_of(scope)
    found, repeats = headers.get(HEADER), headers.get(_REPEATS, b"")
    is_repeat = len(repeats) <= 3 and repeats.isdigit() and int(repeats) > 0
    if found is None:
        return Passport(is_repeat=True) if is_repeat else FRESH
    try:
        hops, attempts, left_s = parse(found.decode("latin-1"))
    except ValueError as error:
        name = HEADER.decode()
        raise RequestError(f"{name} {error}", param=name) from None
    if hops >= MOST_HOPS:
        raise LoopDetectedError(
            f"the request has passed {hops} routers; a provider of theirs leads back to them"
        )
    return Passport(hops, min(attempts, MOST_ATTEMPTS), left_s, is_repeat)
