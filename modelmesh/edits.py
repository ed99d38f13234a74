"""What `serve` makes of its file where a version of the configuration is in force: an edited one becomes the next version.

A file whose content is among the versions is no edit: what was pushed since then counts. On a Redis that others may use as well nothing is
pushed unasked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shared_state.config.loader import Written
from shared_state.config.portions import find_literal_secrets, shared_part
from shared_state.errors import VersionConflictError
from shared_state.store import STORE_ERRORS, Store
from shared_state.versions import Told, Version, Versions, is_same

_AUTHOR: Final = "serve"


class FileEdits:
    """A step between the store and the processes that read it: a service that does its work and is ready.

    Args:
        open_store: called once the store is up.
        digest: of what the file comes to.
        may_push: whether an edit becomes a version; else it is only told.
        tell: takes a line for people.
    """

    name = "configuration"

    def __init__(
        self,
        written: Written,
        *,
        open_store: Callable[[], Store],
        digest: str,
        may_push: bool,
        tell: Callable[[str, str], None],
    ) -> None:
        self._source = written.source
        self._document = shared_part(written.document)
        self._open_store = open_store
        self._digest = digest
        self._may_push = may_push
        self._tell = tell

    async def start(self) -> None:
        """Nothing runs in the background."""

    async def wait_ready(self) -> None:
        """Looks, and pushes what was edited; without the store the nodes will tell."""
        store = self._open_store()
        try:
            line = await self._take_in(Versions(store, node=_AUTHOR))
        except STORE_ERRORS:
            return
        finally:
            await store.aclose()
        if line:
            self._tell(self.name, line)

    async def stop(self) -> None:
        """Nothing to end."""

    async def end_now(self) -> None:
        """Nothing to end."""

    async def _take_in(self, versions: Versions) -> str:
        """What there is to tell."""
        current = (await versions.pulse()).current
        if not current:
            return ""
        known = [await versions.read(version.number) for version in await versions.history()]
        same = [version.number for version in known if is_same(version.document, self._document)]
        if current in same:
            return ""
        if same:
            return f"version {current} is in force, not {self._source}, which is as version {same[0]} was: `modelmesh config history`"
        return await self._push(versions, next(v for v in known if v.number == current))

    async def _push(self, versions: Versions, current: Version) -> str:
        unused = f"version {current.number} is in force, and {self._source} differs and is not used"
        if find_literal_secrets(self._document):
            return f"{unused}: secrets are written out in it (`modelmesh config push` says which)"
        if not self._may_push:
            return f"{unused}: `modelmesh config push` makes it a version"
        told = Told(_AUTHOR, f"{self._source} was edited", self._digest)
        try:
            number = await versions.propose(self._document, told, base=current.number)
        except VersionConflictError as error:
            return f"{unused}: {error.message}"
        await versions.decide(number, is_good=True)  # no node runs yet that could refuse
        return f"{self._source} was edited: it is version {number} now"
