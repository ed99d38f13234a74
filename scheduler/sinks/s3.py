"""Objects in a bucket of S3, or of a store that speaks like it, for schedulers on several machines.

Credentials are found where Amazon's own tools find them: variables, files, the role of the machine.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from scheduler.sinks.base import SinkAwayError, SinkError
from scheduler.sinks.objects import Objects, ObjectSink, sort_names
from shared_state.config.storage import StorageConfig

T = TypeVar("T")

CONNECT_S: Final = 3
ANSWER_S: Final = 5
CALL_S: Final = 15.0
_TRIES: Final = 2
#: What is no outage: who has no access has none later either.
_REFUSED: Final = (PermissionError, FileNotFoundError)


class Bucket(Objects):
    """Objects under a prefix of a file system of fsspec; each call is bounded.

    Args:
        files: synchronous interface, without a cache of listings.
        faults: what it raises besides `OSError`.
    """

    def __init__(
        self, files: Any, root: str, *, faults: tuple[type[Exception], ...], call_s: float = CALL_S
    ) -> None:
        self._files = files
        self._root = root
        self._faults: tuple[type[Exception], ...] = (OSError, *faults)
        self._call_s = call_s

    async def open(self) -> None:
        """The first object that is put there tells whether the bucket exists and lets us."""

    async def put(self, name: str, blob: bytes) -> None:
        await self._work("written", lambda: self._put(f"{self._root}/{name}", blob))

    async def get(self, name: str) -> bytes | None:
        return await self._work("read", lambda: self._get(f"{self._root}/{name}"))

    async def names(self, folder: str) -> list[str]:
        return await self._work("read", lambda: self._names(f"{self._root}/{folder}"))

    async def remove(self, name: str) -> None:
        await self._work("written", lambda: self._remove(f"{self._root}/{name}"))

    async def aclose(self) -> None:
        """The connections are fsspec's, which closes them with the file system."""

    async def _work(self, verb: str, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._call_s):
                return await asyncio.to_thread(work)
        except self._faults as error:
            kind = SinkError if isinstance(error, _REFUSED) else SinkAwayError
            cause = str(error) or f"no answer within {self._call_s:g} s"
            raise kind(f"the bucket at {self._root} cannot be {verb}: {cause}") from error

    def _put(self, path: str, blob: bytes) -> None:
        try:
            self._files.pipe_file(path, blob, mode="create")
        except FileExistsError:
            return
        except OSError as error:
            if (
                error.errno == errno.ENOSYS
            ):  # a store without exclusive writes; what has the name has the content, too
                self._files.pipe_file(path, blob)
            elif error.errno != errno.EINVAL or not self._files.exists(path, refresh=True):
                raise

    def _get(self, path: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(path))
        except FileNotFoundError:
            return None

    def _names(self, folder: str) -> list[str]:
        try:
            paths = self._files.ls(folder, detail=False, refresh=True)
            return sort_names(path.rstrip("/").rpartition("/")[2] for path in paths)
        except FileNotFoundError:
            return []

    def _remove(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return


def make_s3_sink(config: StorageConfig, _environ: Mapping[str, str]) -> ObjectSink:
    """The sink in the configured bucket.

    Raises:
        SinkError: the library is not installed.
    """
    try:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
        from s3fs import S3FileSystem
    except ImportError as error:
        raise SinkError("storage.connector aws.s3.v1 needs s3fs: install modelmesh[s3]") from error
    files = S3FileSystem(
        use_listings_cache=False,
        skip_instance_cache=True,
        endpoint_url=config.endpoint,
        client_kwargs={"region_name": config.region} if config.region else {},
        config_kwargs=_client_options(config),
    )
    files.retries = _TRIES
    root = f"{config.bucket}/{config.key}"
    return ObjectSink(Bucket(files, root, faults=(BotoCoreError, ClientError)), config.persistence)


def _client_options(config: StorageConfig) -> dict[str, Any]:
    bounds = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "retries": {"max_attempts": 0}}
    if config.endpoint is None:
        return bounds
    # Other stores than Amazon's have no host name for each bucket, and many do not know its newer checksums.
    others = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return {**bounds, **others, "s3": {"addressing_style": "path"}}
