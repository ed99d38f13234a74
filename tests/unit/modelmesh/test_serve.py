"""What `serve` decides before anything runs, and what it starts."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from modelmesh import demo
from modelmesh.addresses import http_url
from modelmesh.errors import AddressError, StartError
from modelmesh.serve import Plan, ServeOptions, make_plan, node_specs, print_banner, scheduler_spec
from shared_state.errors import ConfigurationError

MESH = """
providers:
  alpha: {connector: openai-compatible.v1, base_url: "http://127.0.0.1:9/v1"}
models:
  alpha.small: {provider: alpha, capabilities: [chat-completion]}
pools:
  chat: {capability: chat-completion}
server: {drain: 7s}
"""

MakePlan = Callable[..., Plan]


@pytest.fixture
def mesh(tmp_path: Path) -> str:
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH)
    return str(path)


@pytest.fixture
def plan_for(tmp_path: Path) -> Iterator[MakePlan]:
    """Plans on ephemeral ports, in a state folder of the test; their sockets are closed at the end."""
    with ExitStack() as stack:

        def plan_for(options: ServeOptions, environ: Mapping[str, str] | None = None) -> Plan:
            plan = make_plan(options, environ={"MODELMESH_HOME": str(tmp_path / "home"), **(environ or {})})
            stack.enter_context(plan.listener)
            return plan

        yield plan_for


def test_the_command_line_wins_over_the_configuration(plan_for, tmp_path):
    """Host, port and Redis given by hand are used."""
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH + "proxy: {port: 1}\nredis: {url: 'redis://other'}\n")

    plan = plan_for(ServeOptions(config_path=str(path), port=0, redis_url="redis://:secret@chosen:6379/0"))

    assert plan.address[0] == "127.0.0.1"
    assert plan.address[1] > 1
    assert plan.redis.url == "redis://:secret@chosen:6379/0"
    assert "secret" not in plan.redis.label


def test_the_environment_names_configuration_and_redis(plan_for, mesh):
    """MODELMESH_CONFIG and MODELMESH_REDIS_URL."""
    environ = {"MODELMESH_CONFIG": mesh, "MODELMESH_REDIS_URL": "redis://env"}
    plan = plan_for(ServeOptions(port=0), environ)

    assert plan.source.path == mesh
    assert plan.redis.url == "redis://env"


def test_keys_of_the_environment_make_a_configuration(plan_for):
    """Zero configuration: no file, and what had to be left out is told."""
    environ = {"OPENAI_API_KEY": "sk-test", "GOOGLE_API_KEY": "sk-g"}
    plan = plan_for(ServeOptions(port=0), environ)

    assert "openai" in plan.topology.providers
    assert plan.source.path is None
    assert any("GOOGLE_API_KEY" in note for note in plan.source.notes)


def test_without_any_provider_it_is_the_demo_and_says_so(plan_for):
    """What `make run` does on a fresh machine."""
    plan = plan_for(ServeOptions(port=0))

    assert any("this is the demo" in note for note in plan.source.notes)
    assert len(plan.source.mocks) == 3


def test_the_demo_has_three_tempers_and_a_pool_over_them(plan_for, tmp_path):
    """Its configuration is a file that one may read, and the mocks listen where it says."""
    plan = plan_for(ServeOptions(port=0, is_demo=True), {"OPENAI_API_KEY": "sk-test"})
    written = yaml.safe_load(Path(plan.source.path).read_text())
    ports = [mock.argv[mock.argv.index("--port") + 1] for mock in plan.source.mocks]

    assert Path(plan.source.path).is_relative_to(tmp_path)
    assert [provider["base_url"] for provider in written["providers"].values()] == [
        f"http://127.0.0.1:{port}/v1" for port in ports
    ]
    assert len(plan.topology.resolve(demo.MODEL).pools[0].models) == 3
    assert "limits" not in plan.topology.models


def test_nodes_share_the_socket_and_secrets_stay_out_of_arguments(plan_for, mesh):
    """Every node gets the descriptor, its own name, and the Redis URL by the environment."""
    plan = plan_for(ServeOptions(config_path=mesh, port=0, nodes=2, insecure=True))
    first, second = node_specs(plan, redis_url="redis://:secret@h")
    scheduler = scheduler_spec(plan, redis_url="redis://:secret@h")

    assert first.pass_fds == second.pass_fds == (plan.listener.fileno(),)
    assert f"-c {mesh} --host 127.0.0.1 --port {plan.address[1]} --fd {plan.listener.fileno()}" in " ".join(
        first.argv
    )
    assert "--insecure" in first.argv
    assert first.argv != second.argv
    assert first.grace_s > 7.0
    for spec in (first, second, scheduler):
        assert spec.environ["MODELMESH_REDIS_URL"] == "redis://:secret@h"
        assert "secret" not in " ".join(spec.argv)


def test_children_find_our_packages_in_any_folder(plan_for, mesh, tmp_path):
    """A folder named `node` where the user stands must not be taken for ours."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    spec = scheduler_spec(plan := plan_for(ServeOptions(config_path=mesh, port=0)), redis_url="")
    python = spec.argv[: spec.argv.index("-m")]
    subprocess.run([*python, "-c", "import node.options"], env=dict(plan.environ), cwd=tmp_path, check=True)


def test_the_banner_says_what_runs(plan_for, capsys):
    """Address, nodes, store, counts, and a line to try."""
    plan = plan_for(ServeOptions(port=0, nodes=2, is_demo=True))
    print_banner(plan, store_label="embedded")
    text = capsys.readouterr().out

    assert f"serves on http://127.0.0.1:{plan.address[1]}\n" in text
    assert "3 providers, 3 models, 1 pool\n" in text
    assert "curl http://127.0.0.1" in text
    assert f"http://127.0.0.1:{plan.address[1]}/ui\n" in text


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_door_is_refused(plan_for, mesh, host):
    """Nothing but loopback without authentication, unless it is asked for."""
    with pytest.raises(StartError, match="without authentication"):
        plan_for(ServeOptions(config_path=mesh, host=host, port=0))


@pytest.mark.parametrize("lock", ["proxy: {auth: {tokens: [t0ken]}}", "keys: {required: true}"])
def test_an_open_door_with_a_lock_or_on_request(plan_for, mesh, tmp_path, lock):
    """Tokens or client keys close it; --insecure takes the risk."""
    path = tmp_path / "closed.yaml"
    path.write_text(MESH + lock + "\n")

    assert plan_for(ServeOptions(config_path=str(path), host="0.0.0.0", port=0)).address[0] == "0.0.0.0"
    assert plan_for(ServeOptions(config_path=mesh, host="0.0.0.0", port=0, insecure=True)).insecure


@pytest.mark.parametrize("url", ["http://h", "redis://h:port"])
def test_a_redis_url_that_is_none_is_refused_at_once(plan_for, mesh, url):
    """Better than nodes that die again and again."""
    with pytest.raises((ConfigurationError, StartError)):
        plan_for(ServeOptions(config_path=mesh, port=0, redis_url=url))


def test_a_host_that_is_not_ours(plan_for, mesh):
    """The operating system's reason is passed on."""
    with pytest.raises(AddressError, match="cannot listen on nowhere.invalid port 0"):
        plan_for(ServeOptions(config_path=mesh, host="nowhere.invalid", port=0, insecure=True))


def test_urls_of_ipv6_addresses_have_brackets():
    """Else the port is taken for a part of the address."""
    assert http_url("::1", 80) == "http://[::1]:80"


def run_cli(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {
        "PATH": "/usr/bin:/bin",
        "MODELMESH_HOME": str(home),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    command = [sys.executable, "-m", "modelmesh", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)


def test_a_taken_port_is_one_line_and_exit_code_1(mesh, tmp_path):
    """No traceback, nothing on standard output."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run_cli("serve", "-c", mesh, "--port", str(port), home=tmp_path)

    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"modelmesh: cannot listen on 127.0.0.1 port {port}: address already in use; choose another with --port\n"
    )


def test_faults_of_the_configuration_are_listed(tmp_path):
    """All of them at once, exit code 1."""
    path = tmp_path / "bad.yaml"
    path.write_text(MESH + "pols: {}\nredis: {namespace: 'a b'}\n")
    result = run_cli("serve", "-c", str(path), home=tmp_path)

    assert result.returncode == 1
    assert "2 faults" in result.stderr
    assert "pols" in result.stderr
    assert "redis.namespace" in result.stderr


def test_config_check_shows_what_a_file_describes(mesh, tmp_path):
    """Providers, models and pools, exit code 0."""
    result = run_cli("config", "check", mesh, home=tmp_path)

    assert result.returncode == 0
    for word in (
        "alpha",
        "http://127.0.0.1:9/v1",
        "alpha.small",
        "chat-completion",
        "The configuration is good",
    ):
        assert word in result.stdout


def test_config_check_lists_every_fault(tmp_path):
    """Exit code 1; a file that is not there is a fault as well."""
    path = tmp_path / "bad.yaml"
    path.write_text("providers: {alpha: {conector: x}}\nmodels: {m: {provider: beta}}\n")
    result = run_cli("config", "check", str(path), home=tmp_path)

    assert result.returncode == 1
    assert "conector" in result.stderr
    assert "beta" in result.stderr
    assert run_cli("config", "check", str(tmp_path / "none.yaml"), home=tmp_path).returncode == 1


@pytest.mark.parametrize(
    "command", [("config", "check"), ("node", "--port", "0", "-c"), ("serve", "--port", "0", "-c")]
)
def test_a_strategy_that_does_not_exist_is_told_before_anything_starts(command, tmp_path):
    """A class path is looked up by whoever would use it, and by the check."""
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH.replace("chat-completion}\n", "chat-completion, strategy: 'nowhere.to_be:Found'}\n"))
    result = run_cli(*command, str(path), home=tmp_path)

    assert result.returncode == 1
    assert "pools.chat.strategy: module 'nowhere.to_be'" in result.stderr
