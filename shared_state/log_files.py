"""A file of lines that is put aside when it is full: ``name.1`` is the latest of those, ``name.2`` the one before."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class LogFile:
    """Lines in a file, which several processes may share. Blocks, so it is used off the event loop.

    Args:
        max_size: bytes after which a file is put aside; 0: never.
        keep: how many full files are kept.
    """

    def __init__(self, path: Path, *, max_size: int = 0, keep: int = 1) -> None:
        self.path = path
        self._max_size = max_size
        self._keep = keep

    def append(self, data: bytes, *, is_durable: bool = False) -> None:
        """Adds whole lines; the file is opened anew each time, for somebody else may have put it aside.

        Args:
            is_durable: returns only once they would survive a crash.

        Raises:
            OSError: they were not written, or only a part of them.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._is_full(len(data)):
            with self._alone():
                if self._is_full(len(data)):  # nobody else has put it aside meanwhile
                    self._put_aside()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if is_durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _is_full(self, more: int) -> bool:
        if not self._max_size:
            return False
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        return size > 0 and size + more > self._max_size

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process at a time puts a file aside."""
        descriptor = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_WRONLY | os.O_CREAT, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _put_aside(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._aside(number).replace(self._aside(number + 1))
        if self._keep:
            self.path.replace(self._aside(1))
        else:
            self.path.unlink()

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
