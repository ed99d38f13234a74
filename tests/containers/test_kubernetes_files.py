"""What the files of `compose/kubernetes/` say, held against the code and against the composition; without a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

import node.options
import scheduler.options
from modelmesh.cli.app import app
from node.engine.contract import ServerOptions
from node.service import _FLUSH_DEADLINE_S
from shared_state.config.loader import load_config
from shared_state.topology import build_topology
from tests.containers.test_compose_files import COMPOSE, services
from tests.unit.node.api.asgi import Front, ask

ROOT = COMPOSE.parent
KUBERNETES = COMPOSE / "kubernetes"
EXAMPLE = KUBERNETES / "overlays" / "example"
KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))
ENVIRON = {
    "MODELMESH_TOKEN": "token-of-the-clients",
    "OPENAI_API_KEY": "key-at-openai",
    "ANTHROPIC_API_KEY": "key-at-anthropic",
}

Section = dict[str, Any]


def documents(path: Path) -> list[Section]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def kustomization(path: Path) -> Section:
    (found,) = documents(path)
    return found


def listed(path: Path) -> Iterator[Path]:
    """The files that a kustomization names."""
    found = kustomization(path)
    yield from (path.parent / name for name in found.get("resources", ()))
    yield from (path.parent / patch["path"] for patch in found.get("patches", ()))
    for generated in found.get("configMapGenerator", ()):
        yield from (path.parent / name for name in generated["files"])


def objects() -> dict[tuple[str, str], Section]:
    """Everything that is made, by kind and name; patches left out, the push job in."""
    files = [
        file
        for path in KUSTOMIZATIONS
        for file in (path.parent / name for name in kustomization(path)["resources"])
        if file.is_file()
    ]
    made = [found for file in [*files, KUBERNETES / "push.yaml"] for found in documents(file)]
    named = {(found["kind"], _name(found)): found for found in made}
    assert len(named) == len(made)
    return named


def _name(found: Section) -> str:
    meta = found["metadata"]
    return str(meta.get("name") or meta["generateName"])


OBJECTS = objects()
PODS = {
    name: found["spec"]["template"]
    for (_, name), found in OBJECTS.items()
    if "template" in found.get("spec", {})
}
OURS = {"node": "node", "scheduler": "scheduler", "config-push-": "push"}


def container(pod: str) -> Section:
    (found,) = PODS[pod]["spec"]["containers"]
    return dict(found)


def environment() -> dict[str, str]:
    found: dict[str, str] = OBJECTS["ConfigMap", "environment"]["data"]
    return found


def test_every_file_is_named_and_every_name_is_a_file() -> None:
    """Nothing is forgotten; the job that pushes is made by hand."""
    named = {file.resolve() for path in KUSTOMIZATIONS for file in listed(path)}
    there = {*KUBERNETES.rglob("*.yaml"), *KUBERNETES.rglob("*.conf")}

    assert all(file.exists() for file in named)
    assert {KUBERNETES / "push.yaml"} == there - named - set(KUSTOMIZATIONS)


def test_patches_and_replacements_have_something_to_change() -> None:
    """The example's names are those of the base."""
    example = kustomization(EXAMPLE / "kustomization.yaml")
    patches = [found for patch in example["patches"] for found in documents(EXAMPLE / patch["path"])]
    base = kustomization(KUBERNETES / "base" / "kustomization.yaml")
    generated = {each["name"] for each in base["configMapGenerator"]}
    images = {container(pod)["image"].partition(":")[0] for pod in PODS}

    assert {(found["kind"], _name(found)) for found in patches} <= OBJECTS.keys()
    assert {
        each["name"] for each in example["configMapGenerator"] if each["behavior"] == "replace"
    } <= generated
    assert {image["name"] for image in example["images"]} <= images


@pytest.mark.parametrize("path", [KUBERNETES / "base", EXAMPLE], ids=lambda path: path.name)
def test_the_configuration_is_accepted_and_restarts_nobody(path: Path) -> None:
    """By our own loader; under a name that does not change with its content."""
    found = kustomization(path / "kustomization.yaml")
    config = load_config(path / "mesh.yaml", environ=ENVIRON)

    assert build_topology(config).pools
    assert config.proxy.auth.tokens
    assert found["generatorOptions"]["disableNameSuffixHash"] is True
    assert [each["files"] for each in found["configMapGenerator"]] == [["mesh.yaml"]]


def test_images_and_users_are_those_of_the_composition() -> None:
    """One image for every process of ours, run by the user that it has."""
    (uid,) = set(re.findall(r"--uid (\d+)", (COMPOSE / "Dockerfile").read_text()))
    name = services()["node1"]["image"].partition(":")[0]

    for pod in OURS:
        assert container(pod)["image"].partition(":")[0] == name
        assert PODS[pod]["spec"]["securityContext"]["runAsUser"] == int(uid)


@pytest.mark.parametrize("pod", PODS)
def test_no_pod_may_more_than_it_needs(pod: str) -> None:
    """The profile `restricted`, a root that cannot be written, no token of the cluster, nobody else's names in the environment."""
    spec, own = PODS[pod]["spec"], container(pod)["securityContext"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
    assert spec["enableServiceLinks"] is spec["automountServiceAccountToken"] is False
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert container(pod)["resources"]["limits"].keys() == {"memory"}


@pytest.mark.parametrize("pod", PODS)
def test_what_is_mounted_is_there(pod: str) -> None:
    """Each mount has its volume."""
    claims = OBJECTS.get(("StatefulSet", pod), {"spec": {}})["spec"].get("volumeClaimTemplates", ())
    volumes = [each["name"] for each in PODS[pod]["spec"]["volumes"]] + [_name(each) for each in claims]

    assert sorted(mount["name"] for mount in container(pod)["volumeMounts"]) == sorted(volumes)


@pytest.mark.parametrize("pod", OURS)
def test_our_processes_find_their_files_and_may_write_to_their_home(pod: str) -> None:
    """The paths in the environment are those of the mounts."""
    mounts = {mount["name"]: mount for mount in container(pod)["volumeMounts"]}
    sources = [next(iter(each.items())) for each in container(pod)["envFrom"]]

    assert environment()["MODELMESH_CONFIG"] == f"{mounts['mesh']['mountPath']}/mesh.yaml"
    assert environment()["MODELMESH_HOME"] == mounts["home"]["mountPath"]
    assert not mounts["home"].get("readOnly")
    assert [kind for kind, _ in sources] == ["configMapRef", "secretRef"]  # the Secret wins


def test_every_variable_is_one_that_the_code_reads() -> None:
    """Those of the Secret, as the page names them, too."""
    sources = [
        path.read_text()
        for package in ("modelmesh", "node", "scheduler", "shared_state")
        for path in (ROOT / package).rglob("*.py")
    ]
    told = set(
        re.findall(
            r"MODELMESH_[A-Z_]+",
            "".join(path.read_text() for path in KUBERNETES.rglob("*.*") if path.is_file()),
        )
    )
    by_configuration = {"MODELMESH_TOKEN"}

    for name in (environment().keys() | told) - by_configuration:
        assert any(f'"{name}"' in text or f"'{name}'" in text for text in sources), name


def test_every_option_is_one_that_the_command_has() -> None:
    """The commands' own parsers read them."""
    as_node, as_scheduler = [container(pod)["args"] for pod in ("node", "scheduler")]
    node_options = node.options.parse(as_node[1:], environ={})
    scheduler_options = scheduler.options.parse(as_scheduler[1:], environ={})

    assert (as_node[0], as_scheduler[0]) == ("node", "scheduler")
    assert (node_options.name, scheduler_options.name) == ("$(POD_NAME)", "$(POD_NAME)")
    assert {"POD_NAME"} == {each["name"] for pod in ("node", "scheduler") for each in container(pod)["env"]}
    assert node_options.port == container("node")["ports"][0]["containerPort"]
    assert node_options.host == "0.0.0.0"


def test_the_job_pushes_the_mounted_file() -> None:
    """Its words are a command of ours."""
    group, name, *words = container("config-push-")["args"]
    command: Any = typer.main.get_command(app)
    push = command.commands[group].commands[name]
    options = push.make_context(name, words).params

    assert options["file"] == environment()["MODELMESH_CONFIG"]
    assert PODS["config-push-"]["spec"]["restartPolicy"] == "Never"


def test_addresses_lead_to_services_and_these_to_ports() -> None:
    """By name, all the way to what is listened on."""
    for variable, pod in (("MODELMESH_URL", "node"), ("MODELMESH_REDIS_URL", "valkey")):
        url = urlsplit(environment()[variable])
        spec = OBJECTS["Service", url.hostname or ""]["spec"]
        (port,), (listening,) = spec["ports"], container(pod)["ports"]

        assert (port["port"], port["targetPort"]) == (url.port, listening["name"])
        assert spec["selector"].items() <= PODS[pod]["metadata"]["labels"].items()


def test_whoever_selects_pods_finds_some() -> None:
    """Labels of policies, budgets and workloads are those of pods."""
    labels = [PODS[pod]["metadata"]["labels"].items() for pod in PODS]
    own = {"app.kubernetes.io/name", "app.kubernetes.io/component"}

    for found in OBJECTS.values():
        for selector in _selectors(found.get("spec", {})):
            if selector.keys() <= own:
                assert any(selector.items() <= each for each in labels), selector
    assert _scaled() == ("Deployment", "node")
    assert _scaled() in OBJECTS


def _selectors(part: Any) -> Iterator[dict[str, str]]:
    if isinstance(part, dict):
        if "matchLabels" in part:
            yield part["matchLabels"]
        for inner in part.values():
            yield from _selectors(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _selectors(inner)


def _scaled() -> tuple[str, str]:
    target = OBJECTS["HorizontalPodAutoscaler", "node"]["spec"]["scaleTargetRef"]
    return target["kind"], target["name"]


async def test_probes_ask_what_a_node_answers() -> None:
    """Alive for those that restart it, ready for the one that sends it traffic."""
    own = container("node")
    probes = {name: own[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    waiting = Front()
    waiting.is_ready = False
    statuses = {name: (await ask(waiting.app, "GET", probe["path"])).status for name, probe in probes.items()}

    assert statuses == {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 503}
    assert {probe["port"] for probe in probes.values()} == {own["ports"][0]["name"]}


@pytest.mark.parametrize("path", [KUBERNETES / "base", EXAMPLE], ids=lambda path: path.name)
def test_a_node_is_not_killed_while_it_may_still_drain(path: Path) -> None:
    """The grace has room for the wait before, the drain of the configuration, and the goodbyes."""
    drain_s = load_config(path / "mesh.yaml", environ=ENVIRON).server.drain
    command, wait_s = container("node")["lifecycle"]["preStop"]["exec"]["command"]
    told = ServerOptions(drain_s=drain_s)
    needed_s = (
        float(wait_s) + told.announce_s + told.drain_s + told.cancel_s + told.shutdown_s + _FLUSH_DEADLINE_S
    )

    assert command == "sleep"
    assert PODS["node"]["spec"]["terminationGracePeriodSeconds"] > needed_s


def test_the_ingress_says_what_nginx_says() -> None:
    """Annotations of the one are directives of the other; neither sends again what may have been billed."""
    text = (COMPOSE / "nginx.conf").read_text()
    prefix = "nginx.ingress.kubernetes.io/"
    names = {"proxy-body-size": "client_max_body_size", "client-body-buffer-size": "client_body_buffer_size"}
    for annotation, value in OBJECTS["Ingress", "modelmesh"]["metadata"]["annotations"].items():
        name = annotation.removeprefix(prefix)
        directive = names.get(name, name.replace("-", "_"))
        (said,) = set(re.findall(rf"^\s*{directive} ([^;]+);", text, re.MULTILINE))

        assert annotation.startswith(prefix)
        assert value == (said[:-1] if re.fullmatch(r"\d+s", said) else said)


def test_the_store_is_set_up_as_in_the_composition() -> None:
    """Append-only, nothing evicted; on the disk that is mounted."""
    here, there = [
        [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        for path in (KUBERNETES / "valkey" / "valkey.conf", COMPOSE / "redis.conf")
    ]

    assert here == there
    assert "appendonly yes" in here
    assert {"/data", "/etc/valkey"} == {mount["mountPath"] for mount in container("valkey")["volumeMounts"]}
