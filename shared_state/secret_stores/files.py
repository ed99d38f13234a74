"""Files of secrets: read whole, written whole, private to their owner."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared_state.errors import SecretStoreError

_PRIVATE = 0o600
_SHARED_WITH_GROUP = 0o660
_LARGEST_BYTES = 16 * 2**20


def read_file(path: Path) -> str | None:
    """What the file holds; None if there is none.

    Raises:
        SecretStoreError: it cannot be read, is no text, or is too large to be meant.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SecretStoreError(f"cannot read {path}: {error.strerror}", key="path") from None
    if len(raw) > _LARGEST_BYTES:
        raise SecretStoreError(f"cannot read {path}: larger than {_LARGEST_BYTES} bytes", key="path")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass  # the error would hold the bytes
    raise SecretStoreError(f"cannot read {path}: not UTF-8", key="path")


def write_file(path: Path, text: str) -> None:
    """Puts a new text in place of the old one, at once or not at all: 0600, or what its owner had allowed himself and his group.

    Raises:
        SecretStoreError: it cannot be written.
    """
    target = path.resolve()  # a link stays a link
    try:
        mode, owner = _habits(target)
        number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                os.fchmod(number, mode)
                if owner is not None and owner != (os.geteuid(), os.getegid()):
                    with suppress(PermissionError):  # only root can give files away
                        os.fchown(number, *owner)
                file.write(text.encode())
                file.flush()
                os.fsync(number)
            os.replace(name, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise SecretStoreError(f"cannot write {path}: {error.strerror}", key="path") from None


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keeps other writers of the same folder out, so that nobody's change is lost between reading and writing.

    Raises:
        SecretStoreError: there is no such folder.
    """
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SecretStoreError(f"cannot write {path}: {error.strerror}", key="path") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _habits(target: Path) -> tuple[int, tuple[int, int] | None]:
    """Mode and owner of what is to be written."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return _PRIVATE, None
    return stat.S_IMODE(status.st_mode) & _SHARED_WITH_GROUP | _PRIVATE, (status.st_uid, status.st_gid)
