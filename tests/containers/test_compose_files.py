"""What the files of `compose/` say, without an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared_state.config.loader import load_config
from shared_state.config.values import parse_duration
from shared_state.errors import ConfigurationError
from tests.containers.engine import STAND_INS
from tests.support.nginx import NginxServer

COMPOSE = Path(__file__).resolve().parents[2] / "compose"
ENVIRON = {"MODELMESH_TOKEN": "token-of-the-clients", "OPENAI_API_KEY": "key-at-the-provider"}


def services(name: str = "compose.yaml") -> dict[str, dict[str, Any]]:
    """The services of a file, anchors and merges resolved."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / name).read_text())["services"]
    return found


@pytest.mark.parametrize("name", ["compose.yaml", "demo.yaml"])
def test_files_follow_the_compose_specification(name: str) -> None:
    """The schema that Docker publishes accepts the file."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, COMPOSE / name], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["mesh.yaml", "mesh.demo.yaml"])
def test_nodes_may_take_longer_to_stop_than_requests_to_end(name: str) -> None:
    """The engine kills a node only after the drain of its configuration has run out."""
    drain_s = load_config(COMPOSE / name, environ=ENVIRON).server.drain
    graces = [parse_duration(services()[node]["stop_grace_period"]) for node in ("node1", "node2", "node3")]

    assert min(graces) > drain_s + 10


def test_configurations_need_the_clients_token() -> None:
    """Without a token in the environment the configuration is refused, by name."""
    with pytest.raises(ConfigurationError, match="MODELMESH_TOKEN is not set"):
        load_config(COMPOSE / "mesh.demo.yaml", environ={})


@pytest.mark.cluster
def test_nginx_accepts_the_three_nodes() -> None:
    """nginx reads nodes.conf, here with addresses for names that only the composition knows."""
    text = (COMPOSE / "nodes.conf").read_text()
    with closing(NginxServer([("127.0.0.1", 8080)])) as nginx:
        (nginx.directory / "upstreams.conf").write_text(re.sub(r"server node\d", "server 127.0.0.1", text))
        nginx.check()


def test_nginx_knows_every_node_by_a_fixed_address() -> None:
    """Each name in nodes.conf is in nginx's hosts file, with the address that the node of that name has."""
    names = re.findall(r"server (\w+):8080", (COMPOSE / "nodes.conf").read_text())
    hosts = dict(line.split(":", 1) for line in services()["nginx"]["extra_hosts"])

    assert hosts == {name: services()[name]["networks"]["mesh"]["ipv4_address"] for name in names}
    assert len(names) == 3


def test_no_port_is_open_to_the_network() -> None:
    """Only nginx is published, and the pictures where they are asked for; on loopback."""
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}

    assert list(published) == ["nginx", "grafana"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_every_image_has_a_stand_in() -> None:
    """The private engine of these tests has no registry: what is asked for must be made."""
    images = {service["image"] for service in services().values() if "profiles" not in service}
    images |= set(re.findall(r"^FROM (\S+)", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE))

    assert {image for image in images if not image.startswith("modelmesh:")} == set(STAND_INS)
