"""A Docker engine for tests: the one that answers here, else a private one on images that are made on the spot.

The private engine touches nothing of the machine: its mounts live in a namespace of their own, and it writes no
firewall rule. Where its images differ from the real ones is said in `STAND_INS`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from tests.support.processes import ChildProcess

ROOT: Final = Path(__file__).resolve().parents[2]

#: Image asked for -> how it is made from Debian's packages. Python finds its packages in a folder: no registry is needed.
STAND_INS: Final = {
    "python:3.11-slim-bookworm": """
        RUN ln -s /usr/bin/python3 /usr/local/bin/python && rm -f /usr/lib/python3.11/EXTERNALLY-MANAGED
        COPY wheelhouse /wheelhouse
        ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheelhouse
        """,
    "redis:7.2-bookworm": "WORKDIR /data",
    "nginx:1.28-bookworm": "STOPSIGNAL SIGQUIT",
}
_BASE: Final = "modelmesh-test-base"
_DEBIAN: Final = "bookworm"
_SOURCES: Final = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_CONTENTS: Final = "ca-certificates,python3,python3-pip,python3-venv,redis-server,nginx-light"
#: What Debian's Python 3.11.2 needs beyond what the interpreter of these tests does.
_OLDER_PYTHON: Final = ("async-timeout", "wheel")
_PROGRAMS: Final = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
}
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class EngineMissingError(AssertionError):
    """Tests on containers were asked for, and cannot run."""


def run(
    command: Sequence[str | Path],
    *,
    environ: Mapping[str, str],
    text: str | None = None,
    limit_s: float = 300,
) -> str:
    """Standard output of a command.

    Raises:
        AssertionError: it failed; with all that it said.
    """
    done = subprocess.run(
        command,
        env=environ,
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    words = " ".join(map(str, command))
    assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def open_engine() -> Iterator[dict[str, str]]:
    """The environment in which docker's commands reach an engine; a private engine ends with it.

    Raises:
        EngineMissingError: none answers, and none can be started.
    """
    environ = {**os.environ, "PATH": _PATH}
    if _answers(environ):
        yield environ
        return
    _require_programs(environ)
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="mm-engine-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.enter_context(closing(_start(directory, environ)))
        # without BuildKit: it would look for a newer base image in the registry
        environ |= {
            "DOCKER_HOST": f"unix://{directory}/docker.sock",
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }
        _make_stand_ins(directory, environ)
        yield environ


def _answers(environ: Mapping[str, str]) -> bool:
    if shutil.which("docker", path=_PATH) is None:
        return False
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(asked, env=environ, capture_output=True, timeout=30, check=False).returncode == 0


def _require_programs(environ: Mapping[str, str]) -> None:
    missing = {package for program, package in _PROGRAMS.items() if shutil.which(program, path=_PATH) is None}
    is_able = os.geteuid() == 0 and shutil.which("apt-get") is not None
    if not is_able:
        raise EngineMissingError(
            "no Docker engine answers, and one can be started only by root on Debian; start one, or set DOCKER_HOST"
        )
    if not missing:
        return
    names = sorted(missing)
    if not os.environ.get("MODELMESH_INSTALL_ENGINE"):
        raise EngineMissingError(
            f"no Docker engine answers, and to start one these packages are missing: {', '.join(names)}; "
            "install them, or set MODELMESH_INSTALL_ENGINE=1 to have it done"
        )
    quiet = {**environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], environ=quiet)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names], environ=quiet)


def _start(directory: Path, environ: Mapping[str, str]) -> ChildProcess:
    program = [
        *("unshare", "--mount", "--propagation", "private"),  # its mounts end with it
        *("dockerd", "--host", f"unix://{directory}/docker.sock", "--pidfile", f"{directory}/pid"),
        *("--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"),
        *("--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none"),
    ]
    process = ChildProcess(program, name="dockerd", env=environ, death_signal=signal.SIGTERM)
    try:
        process.wait_line_blocking("API listen on", 60)
    except BaseException:
        process.close()
        raise
    return process


def _make_stand_ins(directory: Path, environ: Mapping[str, str]) -> None:
    """Debian from its own mirror, and the packages that the project depends on, under the names of the real images."""
    base, context = directory / "base.tar", directory / "context"
    sources = next(path for path in _SOURCES if path.exists())
    run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_CONTENTS}", _DEBIAN, base, sources],
        environ=environ,
    )
    run(["docker", "import", base, _BASE], environ=environ)
    base.unlink()
    _download_wheels(context / "wheelhouse", environ)
    for image, recipe in STAND_INS.items():
        lines = [line.strip() for line in f"FROM {_BASE}\n{recipe}".splitlines()]
        (context / "Dockerfile").write_text("\n".join(lines))
        run(["docker", "build", "--quiet", "--tag", image, context], environ=environ)


def _download_wheels(folder: Path, environ: Mapping[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], *_OLDER_PYTHON]
    run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder),
            *("--only-binary=:all:", "--python-version=3.11", "--constraint", ROOT / "constraints.txt"),
            *wanted,
        ],
        environ=environ,
    )
