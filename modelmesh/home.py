"""Folders of this machine: where state is kept, and where sockets live.

State survives restarts; the run folder holds only sockets, whose paths must be short.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from modelmesh.errors import FolderError
from shared_state.home import state_folder

__all__ = ["SOCKET_PATH_MAX_BYTES", "make_private", "socket_path", "state_folder"]

SOCKET_PATH_MAX_BYTES = 103  # what macOS accepts; Linux takes 107


def make_private(folder: Path) -> Path:
    """Create the folder for this user alone, and make sure that it is nobody else's.

    Raises:
        FolderError: it cannot be created, or another user could write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise FolderError(f"cannot use the folder {folder}: {error.strerror}") from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FolderError(f"the folder {folder} must belong to this user, and only this user may write to it")
    return folder


def socket_path(name: str, environ: Mapping[str, str]) -> Path:
    """A path for the unix socket `name`, in the first run folder that is private and short enough.

    Raises:
        FolderError: there is none.
    """
    fault = ""
    for folder in _run_folders(environ):
        path = folder / name
        if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
            fault = fault or f"{path} is too long for a unix socket"
            continue
        try:
            make_private(folder)
        except FolderError as error:
            fault = fault or error.message
            continue
        return path
    raise FolderError(
        f"no folder for the socket {name}: {fault}; set XDG_RUNTIME_DIR to a short private folder"
    )


def _run_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "modelmesh"
    own = f"modelmesh-{os.getuid()}"
    yield Path(tempfile.gettempdir()) / own
    yield Path("/tmp") / own
