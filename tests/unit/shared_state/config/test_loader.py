"""Loading: sources, the contract's own example, and every kind of fault with its path."""

from __future__ import annotations

import pytest
import yaml

from shared_state.config.loader import load_config, read_config
from shared_state.errors import ConfigurationError

NOT_OBEYED = "is known but not obeyed by this release yet; remove it"

CONTRACT = """
redis: {url: redis://127.0.0.1:6379/0, namespace: mm, on_loss: leased}
secrets: {store: modelmesh.env.v1}
providers:
  alpha:
    connector: openai.llm.v1
    base_url: http://127.0.0.1:9001/v1
    api_key: ${secrets:ALPHA_KEY}
    quota_domain: alpha
    limits: {rpm: 600, tpm: 400000, concurrency: 64}
    budget: {daily_limit: 5.0, monthly_limit: 50.0, alert_threshold: 0.8}
    timeouts: {connect: 5s, first_token: 30s, idle: 20s, total: 300s}
models:
  alpha.small:
    provider: alpha
    upstream: small-1
    capabilities: [chat-completion]
    delivery: {synchronous: true, streaming: true, batch: false}
    features: {tool_calling: true, vision: false, json_mode: true, structured_output: true}
    constraints: {context_window: 128000, max_output_tokens: 16384}
    pricing: {input: 0.15, output: 0.60}
    limits: {rpm: 60, rpd: 1000, tpm: 90000, tpd: 1000000, concurrency: 8, timezone: America/Los_Angeles}
pools:
  chat:
    capability: chat-completion
    strategy: round-robin
    weights: {alpha.small: 3}
    model_priority: [alpha.small]
    deactivation:
      {retry_limit: 3, error_rate_threshold: 0.5, error_window: 60s, error_min_requests: 10, error_codes: [429, 500]}
    recovery:
      {cooldown: 60s, max_cooldown: 30m, probe_on_start: false, probe_interval: 300s, on_quota_reset: true, ramp: [1.0]}
    retry: {max_attempts: 3, backoff: exponential_jitter, initial_delay: 500ms, max_delay: 10s, scope: same_model,
      honor_retry_after: true, deadline: 120s}
    rate_limit: {threshold: 0.8, min_delta: 0s, max_rpm: 0, action: switch_model}
keys: {required: false}
proxy: {host: 127.0.0.1, port: 8080, max_body: 32MB, cors: {origins: []}, auth: {tokens: []}}
scheduler: {flush_interval: 60s, probe_interval: 300s, lease: 10s}
storage: {connector: modelmesh.sqlite.v1}
observability: {events: [], logging: {}, statistics: {}}
discovery: {sync: {}, health: {}}
"""

MINIMAL = """
providers:
  alpha: {connector: openai-compatible.v1, base_url: "http://127.0.0.1:9001/v1"}
models:
  alpha.small: {provider: alpha, capabilities: [chat-completion]}
"""

ENVIRON = {"ALPHA_KEY": "sk-alpha-0123456789"}


def faults_of(text: str, *, environ=ENVIRON, **sections) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_config({**yaml.safe_load(text), **sections}, environ=environ)
    return caught.value.faults


def faults_beside(addition: str) -> list[str]:
    """Faults of the minimal configuration with sections added or replaced."""
    return faults_of(MINIMAL, **yaml.safe_load(addition))


def test_contract_example_is_accepted():
    """Every key of the public contract is obeyed."""
    assert read_config(yaml.safe_load(CONTRACT), environ=ENVIRON).pools


def test_file_is_read_with_its_references(tmp_path):
    """Path, environment variable and text path lead to the same configuration."""
    file = tmp_path / "mesh.yaml"
    file.write_text(MINIMAL.replace("9001", "${env:PORT:-9002}"))

    by_path = load_config(file, environ={})
    by_variable = load_config(None, environ={"MODELMESH_CONFIG": str(file)})

    assert by_path.providers["alpha"].base_url == "http://127.0.0.1:9002/v1"
    assert by_variable == by_path


def test_without_a_file_the_environment_is_the_configuration():
    """The keys that are there make the providers; none at all is no fault."""
    assert list(load_config(None, environ={"GROQ_API_KEY": "gsk-1"}).models) == [
        "groq.llama-3.3-70b-versatile"
    ]
    with pytest.raises(ConfigurationError, match="breath"):
        load_config(None, environ={}, overrides={"breath": 1})
    assert load_config(None, environ={}).providers == {}


def test_overrides_win_and_none_means_not_given(tmp_path):
    """A command line adds to what the file says."""
    file = tmp_path / "mesh.yaml"
    file.write_text(MINIMAL + "proxy: {port: 1234, host: 127.0.0.2}\n")

    config = load_config(
        file, environ={}, overrides={"proxy": {"port": 0, "host": None}, "redis": {"url": "unix://x"}}
    )

    assert (config.proxy.port, config.proxy.host, config.redis.address) == (0, "127.0.0.2", "unix://x")


def test_empty_file_is_refused_unless_overrides_fill_it(tmp_path):
    """There would be nothing to serve."""
    file = tmp_path / "mesh.yaml"
    file.write_text("# nothing yet\n")

    with pytest.raises(ConfigurationError, match="the file is empty"):
        load_config(file, environ={})
    assert load_config(file, environ={}, overrides=yaml.safe_load(MINIMAL)).models


def test_blank_sections_and_entries_take_their_defaults():
    """A pool whose name is a capability needs nothing else."""
    config = read_config(yaml.safe_load(MINIMAL + "pools:\n  chat-completion:\nproxy:\n"), environ={})

    assert config.pools["chat-completion"].capability is None
    assert config.proxy.port == 8080


def test_values_from_the_environment_become_numbers():
    """A reference is text; the models know what it is meant to be."""
    environ = {"PORT": "9090", "COOLDOWN": "5m", "REQUIRED": "false"}
    text = (
        MINIMAL
        + "proxy: {port: '${env:PORT}'}\npools: {chat-completion: {recovery: {cooldown: '${env:COOLDOWN}'}}}"
    )

    config = read_config(yaml.safe_load(text), environ=environ)

    assert config.proxy.port == 9090
    assert config.pools["chat-completion"].recovery.cooldown == 300.0


@pytest.mark.parametrize(
    ("addition", "fault"),
    [
        ("redis: {on_los: open}", "redis.on_los: unknown key; did you mean 'on_loss'?"),
        ("pool: {}", "pool: unknown key; did you mean 'pools'?"),
        (
            "pools: {chat-completion: {recovery: {cool_down: 1s}}}",
            "pools.chat-completion.recovery.cool_down: unknown key; did you mean 'cooldown'?",
        ),
        ("proxy: {auth: {zzz: 1}}", "proxy.auth.zzz: unknown key; known: tokens"),
        (
            "keys: {required: perhaps}",
            "keys.required: must be a valid boolean, unable to interpret input, not 'perhaps'",
        ),
        (
            "secrets: {store: modelmesh.browser-secrets.v1}",
            f"secrets.store: modelmesh.browser-secrets.v1 {NOT_OBEYED}",
        ),
        (
            "secrets: {store: hashicorp.vault.v1}",
            "secrets.store: must be 'modelmesh.env.v1', 'modelmesh.dotenv.v1', 'modelmesh.json-secrets.v1', "
            "'modelmesh.encrypted-file.v1', 'modelmesh.keyring.v1', 'modelmesh.memory-secrets.v1', "
            "'aws.secrets-manager.v1', 'google.secret-manager.v1', 'microsoft.key-vault.v1' or "
            "'1password.connect.v1', not 'hashicorp.vault.v1'",
        ),
        (
            "secrets: {vault_name: x}",
            "secrets.vault_name: is an older spelling; write vault_url: https://NAME.vault.azure.net",
        ),
        (
            "secrets: {region: eu-west-1}",
            "secrets.region: is no key of modelmesh.env.v1, which has prefix; it belongs to aws.secrets-manager.v1",
        ),
        (
            "secrets: {store: google.secret-manager.v1}",
            "secrets.project: is required by google.secret-manager.v1",
        ),
        ("secrets: {pasword: x}", "secrets.pasword: unknown key"),
        ("storage: {connector: google.drive.v1}", f"storage.connector: google.drive.v1 {NOT_OBEYED}"),
        (
            "storage: {connector: modelmesh.indexeddb.v1}",
            "storage.connector: modelmesh.indexeddb.v1 is of a browser, and a cluster has none; write modelmesh.sqlite.v1, "
            "modelmesh.postgresql.v1, modelmesh.local-file.v1 or aws.s3.v1",
        ),
        (
            "storage: {connector: modelmesh.memory.v1}",
            "storage.connector: modelmesh.memory.v1 keeps nothing over a restart; write modelmesh.sqlite.v1, "
            "modelmesh.postgresql.v1, modelmesh.local-file.v1 or aws.s3.v1",
        ),
        (
            "storage: {connector: s4}",
            "storage.connector: must be 'modelmesh.sqlite.v1', 'modelmesh.postgresql.v1', 'modelmesh.local-file.v1' or "
            "'aws.s3.v1', not 's4'",
        ),
        ("storage: {connector: aws.s3.v1}", "storage: aws.s3.v1 needs bucket"),
        (
            "storage: {connector: aws.s3.v1, bucket: abc, endpoint: 'http://u:p@h'}",
            "storage.endpoint: must be http(s)://host:port; credentials come from the environment",
        ),
        (
            "storage: {path: a.db, persistence: {compression: true}}",
            "storage: modelmesh.sqlite.v1 does not obey persistence; it has path",
        ),
        (
            "storage: {connector: modelmesh.local-file.v1, persistence: {encryption: true}}",
            "storage.persistence.encryption: true is not done here; let the disk, the bucket or the database encrypt",
        ),
        (
            "storage: {connector: modelmesh.local-file.v1, persistence: {format: yaml}}",
            "storage.persistence.format: yaml has no advantage over json here; write json or msgpack",
        ),
        ("storage: {sync_policy: immediate}", f"storage.sync_policy: {NOT_OBEYED}"),
        ("discovery: {sync: {auto_register: true}}", f"discovery.sync.auto_register: {NOT_OBEYED}"),
        ("discovery: {connectors: []}", f"discovery.connectors: {NOT_OBEYED}"),
        (
            "discovery: {health: {providers: [alpa]}}",
            "discovery.health.providers[0]: unknown provider 'alpa'; did you mean 'alpha'?",
        ),
        (
            "discovery: {sync: {on_deprecated_model: delete}}",
            "discovery.sync.on_deprecated_model: must be 'deactivate', 'notify' or 'ignore', not 'delete'",
        ),
        (
            "budget: {enforce: false, per_request_limit: 1}",
            "budget: per_request_limit only refuses; with enforce: false it would do nothing",
        ),
        ("connectors: {packages: []}", f"connectors: {NOT_OBEYED}"),
        (
            "proxy: {port: abc}",
            "proxy.port: must be a valid integer, unable to parse string as an integer, not 'abc'",
        ),
        ("proxy: {port: 70000}", "proxy.port: must be less than or equal to 65535, not 70000"),
        ("proxy: [1]", "proxy: must be a mapping"),
        (
            "scheduler: {lease: soon}",
            "scheduler.lease: not a duration: 'soon'; write 500ms, 30s, 5m, 24h or 7d",
        ),
        ("pools: {1: {models: [alpha.small]}}", "pools.1: names are text: quote 1"),
        ("redis: {url: 5}", "redis.url: must be a valid string"),
        (
            "pools: {chat-completion: {recovery: {cooldown: 2h, max_cooldown: 1h}}}",
            "pools.chat-completion.recovery: max_cooldown must not be shorter than cooldown",
        ),
    ],
)
def test_each_kind_of_fault_has_its_path_and_says_what_is_accepted(addition, fault):
    """Unknown, not yet obeyed, mistyped, out of range, of the wrong kind."""
    assert faults_beside(addition) == [fault]


def test_the_address_of_a_database_is_not_repeated():
    """There is a password in it."""
    (fault, *_) = faults_beside("storage: {connector: modelmesh.postgresql.v1, url: 'mysql://u:canary@h/d'}")

    assert fault == "storage.url: must begin with postgresql+psycopg:// and name a database"


@pytest.mark.parametrize(
    ("pool", "key", "today"),
    [
        ("hierarchy_node: chat-completion", "hierarchy_node", "capability"),
        ("allowed_providers: [alpha]", "allowed_providers", "providers"),
        ("failure_threshold: 3", "failure_threshold", "deactivation.retry_limit"),
        ("cooldown_seconds: 60", "cooldown_seconds", "recovery.cooldown, with a unit: 60s"),
        ("rotation: {policy: round-robin}", "rotation.policy", "strategy of the pool"),
    ],
)
def test_older_spellings_in_pools_name_todays_key(pool, key, today):
    """Nothing else is said about the entry: what follows from the old key would only confuse."""
    assert faults_beside(f"pools: {{fast: {{{pool}}}}}") == [
        f"pools.fast.{key}: is an older spelling; write {today}"
    ]


def test_older_spellings_in_providers_name_todays_key():
    """Keys inside ``config`` and ``auth`` are told one by one, and their values never."""
    faults = faults_of(
        """
        providers:
          alpha: {connector: openai.llm.v1, config: {api_key: sk-inline, models: [], zzz: 1}}
          beta: {connector: openai.llm.v1, auth: {api_key: sk-inline, method: oauth}}
        """
    )

    assert faults == [
        "providers.alpha.config.api_key: is an older spelling; write api_key of the provider",
        "providers.alpha.config.models: is an older spelling; write an entry under models for each",
        "providers.alpha.config.zzz: unknown key; the section providers.alpha.config is no longer read",
        "providers.beta.auth.api_key: is an older spelling; write api_key of the provider",
        f"providers.beta.auth.method: {NOT_OBEYED}",
    ]


def test_bad_name_is_told_beside_faults_of_the_same_entry():
    """A fault inside an entry does not hide one of the entry itself."""
    assert faults_of(
        "providers: {al pha: {connector: openai-compatible.v1, base_url: 'http://x/v1', zzz: 1}}"
    ) == [
        "providers.al pha.zzz: unknown key; known: enabled, connector, base_url, api_key, organization, headers,"
        " region, responses, messages, quota_domain, limits, budget, timeouts",
        "providers.al pha: a name must not hold spaces",
    ]


def test_all_faults_come_at_once():
    """References, keys, types and checks across sections in one answer, each once."""
    faults = faults_of(
        """
        redis: {on_loss: panic}
        providers:
          alpha: {connector: openai.llm.v1, api_key: "${secrets:MISSING}"}
          beta: {connector: opnai.llm.v1, limits: {rpm: 0}}
        models:
          a: {provider: alpha, upstream: gpt-4o, limits: {timezone: Mars/Olympus}}
          b: {provider: gamma, capabilities: [chat-complétion]}
        pools:
          chat: {capability: chat-completion, strategy: cost-frist, models: [c], wieghts: {}}
        """
    )

    assert [fault.split(":")[0] for fault in faults] == [
        "providers.alpha.api_key",
        "redis.on_loss",
        "providers.beta.limits.rpm",
        "models.a.limits.timezone",
        "pools.chat.wieghts",
        "providers.beta.connector",
        "models.b.capabilities[0]",
        "models.b.provider",
        "pools.chat.models[0]",
        "pools.chat.strategy",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "providers: {alpha: hello}\nmodels: {m: {provider: alpha, capabilities: [ocr]}}\npools: {ocr: {models: [m]}}",
        "providers: 5\nmodels: {m: {provider: alpha, capabilities: [ocr]}}\npools: {ocr: {providers: [alpha]}}",
        MINIMAL.replace("capabilities: [chat-completion]", "capabilities: chat-completion")
        + "pools: {ocr: {}}",
        MINIMAL.replace("provider: alpha, ", "") + "pools: {p: {models: [alpha.small]}}",
        MINIMAL + "pools: {p: {models: alpha.small}}",
    ],
)
def test_one_mistake_is_one_fault(text):
    """What only follows from a refused value is not told."""
    assert len(faults_of(text)) == 1
