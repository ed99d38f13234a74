"""Objects as files in a folder, for the schedulers of one machine or of those that share a file system.

A file is written under another name, brought to the disk, and only then gets its own; no reader sees a part of one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from scheduler.sinks.base import SinkError
from scheduler.sinks.objects import Objects, ObjectSink, sort_names
from shared_state.config.storage import StorageConfig
from shared_state.home import state_folder

T = TypeVar("T")

_HALF_WRITTEN: Final = ".part-"
#: What is half written after this long belongs to a process that died.
_LEFT_OVER_S: Final = 3600.0


class Folder(Objects):
    """Files below a folder, readable by their owner alone."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def open(self) -> None:
        await self._work("opened", self._open)

    async def put(self, name: str, blob: bytes) -> None:
        await self._work("written", lambda: self._put(self.root / name, blob))

    async def get(self, name: str) -> bytes | None:
        return await self._work("read", lambda: _read(self.root / name))

    async def names(self, folder: str) -> list[str]:
        return await self._work("read", lambda: _list(self.root / folder))

    async def remove(self, name: str) -> None:
        await self._work("written", lambda: (self.root / name).unlink(missing_ok=True))

    async def aclose(self) -> None:
        """Nothing is held open."""

    async def _work(self, verb: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise SinkError(f"the storage in {self.root} cannot be {verb}: {error}") from error

    def _open(self) -> None:
        _make_folder(self.root)
        for half in self.root.rglob(f"{_HALF_WRITTEN}*"):
            with suppress(FileNotFoundError):
                if time.time() - half.stat().st_mtime > _LEFT_OVER_S:
                    half.unlink()
        probe = self.root / f"{_HALF_WRITTEN}{secrets.token_hex(8)}"
        _write(probe, b"")
        probe.unlink()

    def _put(self, path: Path, blob: bytes) -> None:
        if not path.exists():
            _make_folder(path.parent)
            half = path.with_name(f"{_HALF_WRITTEN}{secrets.token_hex(8)}")
            try:
                _write(half, blob)
                half.replace(path)
            finally:
                half.unlink(missing_ok=True)
        _sync_folder(path.parent)  # also what somebody else has just put there


def make_local_sink(config: StorageConfig, environ: Mapping[str, str]) -> ObjectSink:
    """The sink in the configured folder, else in the state folder."""
    root = Path(config.path).expanduser() if config.path else state_folder(environ) / "storage"
    return ObjectSink(Folder(root), config.persistence)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _list(folder: Path) -> list[str]:
    try:
        return sort_names(os.listdir(folder))
    except FileNotFoundError:
        return []


def _write(path: Path, blob: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """A folder that would survive a crash, like those above it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
