"""Folders of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmesh import home
from modelmesh.errors import FolderError
from modelmesh.home import SOCKET_PATH_MAX_BYTES, make_private, socket_path, state_folder


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"MODELMESH_HOME": "/srv/mm", "XDG_STATE_HOME": "/x"}, Path("/srv/mm")),
        ({"XDG_STATE_HOME": "/x"}, Path("/x/modelmesh")),
        ({}, Path.home() / ".local/state/modelmesh"),
    ],
)
def test_the_state_folder_follows_the_environment(environ, expected):
    """MODELMESH_HOME, then XDG, then the home folder."""
    assert state_folder(environ) == expected


def test_a_relative_home_is_made_absolute(monkeypatch, tmp_path):
    """Children with another working folder must find the same place."""
    monkeypatch.chdir(tmp_path)

    assert state_folder({"MODELMESH_HOME": "here"}) == tmp_path / "here"


def test_folders_are_made_for_the_user_alone(tmp_path):
    """Nobody else may read state, let alone connect to the store."""
    folder = make_private(tmp_path / "a" / "b")

    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    """Somebody else could have put a socket there."""
    tmp_path.chmod(0o777)

    with pytest.raises(FolderError, match="only this user"):
        make_private(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """The message names the folder and the reason."""
    (tmp_path / "file").touch()

    with pytest.raises(FolderError, match="Not a directory"):
        make_private(tmp_path / "file" / "folder")


def test_sockets_prefer_the_runtime_folder(tmp_path):
    """XDG_RUNTIME_DIR is private to the login."""
    assert socket_path("s", {"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "modelmesh" / "s"


def test_a_deep_runtime_folder_is_passed_over(tmp_path):
    """The kernel cuts socket paths at about a hundred bytes."""
    path = socket_path("s", {"XDG_RUNTIME_DIR": str(tmp_path / ("x" * 110))})

    assert len(bytes(path)) <= SOCKET_PATH_MAX_BYTES


def test_without_any_place_for_sockets_the_first_reason_is_given(monkeypatch, tmp_path):
    """The message says what to set."""
    monkeypatch.setattr(home, "_run_folders", lambda _: iter([tmp_path / ("x" * 110)]))

    with pytest.raises(FolderError, match=r"too long for a unix socket; set XDG_RUNTIME_DIR"):
        socket_path("s", {})
