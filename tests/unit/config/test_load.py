"""The settings as read: precedence, defaults, and faults that name key, value and remedy."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from tollway.config import ConfigErrors, Settings, load_settings, settings_warnings
from tollway.domain.errors import ConfigError

ROUTED = """
[providers.my-openai]
kind = "openai"
api_key_env = "OPENAI_API_KEY"
[[routes]]
name = "one"
tier = "fast"
provider = "my-openai"
model = "gpt-4o-mini"
"""
PRICED = "prices.my-openai/m"
PRICE = "[prices.'my-openai/m']"
RATES = "input_usd_per_mtok = 1\noutput_usd_per_mtok = 1"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | None = None, environ: dict[str, str] | None = None, **flags: object) -> Settings:
    path = None
    if text is not None:
        path = Path("given.toml")
        path.write_text(text)
    return load_settings(path, {key.replace("__", "."): value for key, value in flags.items()}, environ or {})


def faults(text: str | None = None, environ: dict[str, str] | None = None, **flags: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(text, environ, **flags)
    assert isinstance(caught.value, ConfigErrors)
    assert str(caught.value).count("\n") == len(caught.value.faults) - 1
    return {fault.key: str(fault) for fault in caught.value.faults}


def test_defaults_are_the_contracts() -> None:
    """With nothing given, the settings are those the contract prints."""
    settings = load()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8700)
    assert (settings.server.body_bytes_max, settings.server.json_depth_max) == (4194304, 64)
    assert settings.database.embedded
    assert settings.database.data_dir == Path(".tollway")
    worker = settings.worker
    assert (worker.processes, worker.slots, worker.lanes) == (1, 1000, ("interactive", "standard", "batch"))
    assert (worker.grace_s, worker.heartbeat_s, worker.lease_ttl_s, worker.loop_block_max_s) == (30, 3, 12, 60)
    assert settings.retention.ledger_days == 0
    assert settings_warnings(settings) == []


def test_cache_and_single_flight_are_on_unless_switched_off() -> None:
    """An operator turns kept answers or single flight off, in the file or by the environment; else both are on."""
    assert (load().llm.cache, load().llm.single_flight) == ("exact", True)
    switched = load('[llm]\ncache = "off"\n', {"TOLLWAY_LLM__SINGLE_FLIGHT": "false"}).llm
    assert (switched.cache, switched.single_flight) == ("off", False)
    assert "llm.cache" in faults('[llm]\ncache = "on"\n')


def test_without_routes_the_simulated_provider_serves_all_tiers() -> None:
    """No file means routes to the simulator for the three tiers, priced as it charges."""
    settings = load()
    assert settings.simulated
    assert settings.served_tiers == ("fast", "capable", "powerful")
    assert [route.model for route in settings.routes] == ["sim-fast", "sim-capable", "sim-powerful"]
    (price,) = settings.prices["sim/sim-capable"]
    assert (price.input_usd_per_mtok, price.output_usd_per_mtok) == (Decimal("0.15"), Decimal("0.60"))


def test_the_simulators_address_is_filled_in_without_leaving_simulation() -> None:
    """A flag or the environment may say where the simulator listens."""
    settings = load(providers__sim__base_url="http://127.0.0.1:4321/v1")
    assert settings.simulated
    assert settings.providers["sim"].base_url == "http://127.0.0.1:4321/v1"
    again = load(environ={"TOLLWAY_PROVIDERS__SIM__BASE_URL": "http://127.0.0.1:5/v1"})
    assert again.simulated
    assert again.providers["sim"].base_url == "http://127.0.0.1:5/v1"


def test_a_file_of_other_settings_stays_simulated() -> None:
    """A file that says nothing of providers or routes does not lose the simulated ones."""
    assert load("[server]\nport = 9000").simulated


def test_configured_routes_end_simulation() -> None:
    """Routes of one's own replace the simulated ones, and a provider has its vendor's address."""
    settings = load(ROUTED)
    assert not settings.simulated
    assert list(settings.providers) == ["my-openai"]
    assert settings.providers["my-openai"].base_url == "https://api.openai.com/v1"
    assert list(settings.prices) == []


def test_flags_beat_environment_beats_file() -> None:
    """One key given three times takes the flag; without it, the environment; without that, the file."""
    text, environ = "[server]\nport = 1001", {"TOLLWAY_SERVER__PORT": "1002"}
    assert load(text).server.port == 1001
    assert load(text, environ).server.port == 1002
    assert load(text, environ, server__port=1003).server.port == 1003
    assert load(text, environ, server__port=None).server.port == 1002


def test_the_working_directorys_file_is_found(tmp_path: Path) -> None:
    """./tollway.toml is read when no file is named."""
    (tmp_path / "tollway.toml").write_text("[worker]\nslots = 7")
    assert load().worker.slots == 7


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("TOLLWAY_LANES__BATCH__SHARE", "0.25", lambda s: s.lanes["batch"].share == 0.25),
        ("TOLLWAY_DATABASE__URL", "postgresql://u@h/d", lambda s: s.database.url == "postgresql://u@h/d"),
        ("TOLLWAY_WORKER__LEASE_TTL_S", "9.5", lambda s: s.worker.lease_ttl_s == 9.5),
        ("TOLLWAY_WORKER__LANES", "batch, standard", lambda s: s.worker.lanes == ("batch", "standard")),
        (
            "TOLLWAY_PROVIDERS__MY_OPENAI__BASE_URL",
            "http://h:1/v1/",
            lambda s: "h:1" in s.providers["my-openai"].base_url,
        ),
        (
            "TOLLWAY_PRICES__MY_OPENAI_GPT_4O__FROM",
            "2026-01-01",
            lambda s: s.prices["my-openai/gpt-4o"][0].since.year == 2026,
        ),
        ("TOLLWAY_ALERTS__WEBHOOK_URL", "https://h/x?y=1", lambda s: s.alerts.webhook_url == "https://h/x?y=1"),
        ("TOLLWAY_ALERTS__SPIKE_MIN_USD", "0.5", lambda s: s.alerts.spike_min_usd * 2 == 1),
        ("TOLLWAY_RETENTION__RUNS_DAYS", "0", lambda s: s.retention.runs_days == 0),
    ],
)
def test_every_scalar_has_its_variable(name: str, value: str, read: object) -> None:
    """The environment reaches sections and the entries of maps, whatever a name's case and punctuation."""
    text = ROUTED + '[prices."my-openai/gpt-4o"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2.5\n'
    assert callable(read)
    assert read(load(text, {name: value}))


def test_a_model_may_have_several_prices_by_date() -> None:
    """A list of tables is several prices; a variable cannot say which of them it means."""
    text = f"{ROUTED}[[prices.'my-openai/m']]\n{RATES}\n[[prices.'my-openai/m']]\n{RATES}\nfrom = 2026-12-01\n"
    assert [price.since for price in load(text).prices["my-openai/m"]] == [None, date(2026, 12, 1)]
    name = "TOLLWAY_PRICES__MY_OPENAI_M__INPUT_USD_PER_MTOK"
    assert "several dated prices" in faults(text, {name: "1"})[name]


def test_a_price_by_the_hour_needs_none_by_the_token() -> None:
    """With the hour and the tokens expected of it, the prices a token are nothing unless they are given."""
    text = f"{ROUTED}[prices.'my-openai/m']\nusd_per_hour = 40\nmtok_per_hour = 12.5\noutput_usd_per_mtok = 1\n"
    (price,) = load(text).prices["my-openai/m"]
    assert (price.input_usd_per_mtok, price.output_usd_per_mtok, price.mtok_per_hour) == (0, 1, Decimal("12.5"))


def test_variables_that_are_no_settings_are_left_alone() -> None:
    """TOLLWAY_URL and its like have no double underscore and are not settings."""
    environ = {
        "TOLLWAY_URL": "x",
        "TOLLWAY_API_KEY": "x",
        "TOLLWAY_ADMIN_KEY": "x",
        "TOLLWAY_FAILPOINTS": "",
        "HOME": "/",
    }
    assert load(environ=environ) == load()


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("[server]\nprot = 1", "server.prot", "did you mean port?"),
        ("[sevrer]\nport = 1", "sevrer", "did you mean server?"),
        ("[server]\nport = 65536", "server.port", "65535"),
        ("[server]\nport = true", "server.port", "number"),
        ("[worker]\nslots = 0", "worker.slots", "0"),
        ("[worker]\nheartbeat_s = inf", "worker.heartbeat_s", "finite"),
        ("[worker]\ngrace_s = 0", "worker.grace_s", "greater than 0"),
        ("[worker]\nlease_ttl_s = 4", "worker.lease_ttl_s", "3 times"),
        ('[worker]\nlanes = ["bach"]', "worker.lanes", "did you mean batch?"),
        ('[tiers.fast]\nlower = "cheap"', "tiers.fast.lower", "no route serves"),
        ('[tiers.fast]\nlower = "fast"', "tiers.fast.lower", "no route serves"),
        (
            '[tiers.fast]\nlower = "capable"\n[tiers.capable]\nlower = "fast"',
            "tiers.fast.lower",
            "fast > capable > fast",
        ),
        ("[spend]\nfewer_tokens_share = 1", "spend.fewer_tokens_share", "less than 1"),
        ('[worker]\nlanes = ["batch", "batch"]', "worker.lanes", "once"),
        ("[lanes.batch]\nshare = 0.6", "lanes.*.share", "lower one of"),
        ("[lanes.Batch]\nshare = 0", "lanes.Batch", "lower-case"),
        ("lanes = 2", "lanes", "must be a table"),
        ("routes = 3", "routes", "[[routes]]"),
        ("[[routes]]\ntier = ''", "routes[0].tier", "must be 1 to 128"),
        ("[[routes]]\ntier = 'a'", "routes[0].model", "is missing"),
        (ROUTED + "headroom = 1.5", "routes[0].headroom", "less than or equal to 1"),
        (ROUTED + "priority = 0", "routes[0].priority", "greater than or equal to 1"),
        (
            ROUTED.replace('model = "', 'model = "us.anthropic.') + 'capacity = "provisioned"',
            "routes[0].capacity",
            "inference profile",
        ),
        (ROUTED + "burst_s = 0", "routes[0].burst_s", "greater than 0"),
        (
            ROUTED.replace('provider = "my-openai"', 'provider = "my-opnai"'),
            "routes[0].provider",
            "did you mean my-openai?",
        ),
        (ROUTED + '[[routes]]\nname="one"\ntier="a"\nprovider="my-openai"\nmodel="m"', "routes[].name", "its own"),
        ('[providers.x]\nkind = "opnai"', "providers.x.kind", "'openai', 'anthropic', 'gemini' or 'litellm'"),
        ('[providers.x]\nkind = "openai"\nbase_url = "ftp://h"', "providers.x.base_url", "http://"),
        ('[providers.x]\nkind = "anthropic"\napi = "responses"', "providers.x.api", "openai"),
        ('[providers.x]\nkind = "gemini"\napi_version = "v1"', "providers.x.api_version", "Azure"),
        ('[prices."nobody/m"]\ninput_usd_per_mtok=1\noutput_usd_per_mtok=1', "prices.nobody/m", "no such provider"),
        ("[prices.m]\ninput_usd_per_mtok=1\noutput_usd_per_mtok=1", "prices.m", "provider/model"),
        (f"{ROUTED}{PRICE}", f"{PRICED}.input_usd_per_mtok", "is missing"),
        (
            f"{ROUTED}{PRICE}\ninput_usd_per_mtok=-1\noutput_usd_per_mtok=1",
            f"{PRICED}.input_usd_per_mtok",
            "equal to 0",
        ),
        (f"{ROUTED}{PRICE}\nper_call_usd=inf\n{RATES}", f"{PRICED}.per_call_usd", "finite"),
        (
            f"{ROUTED}{PRICE}\nresoning_usd_per_mtok=1\n{RATES}",
            f"{PRICED}.resoning_usd_per_mtok",
            "did you mean reasoning_",
        ),
        (f"{ROUTED}{PRICE}\nusd_per_hour=4", PRICED, "mtok_per_hour belong together"),
        (f"{ROUTED}{PRICE}\nusd_per_hour=4\nmtok_per_hour=0", f"{PRICED}.mtok_per_hour", "greater than 0"),
        (f"{ROUTED}{PRICE}\n{RATES}\nfrom='soon'", f"{PRICED}.from", "date"),
        (f"{ROUTED}[{PRICE}]\n{RATES}\nfro=2026-01-01", f"{PRICED}[0].fro", "did you mean from?"),
        (f"{ROUTED}[{PRICE}]\n{RATES}\n[{PRICE}]\n{RATES}", f"{PRICED}[].from", "2 prices have no from"),
        (f"{ROUTED}[prices]\n'my-openai/m' = []", PRICED, "empty list"),
        (f"{ROUTED}[prices]\n'my-openai/m' = 3", PRICED, "a list of them"),
        ("[spend]\nunknown_model='guess'", "spend.unknown_model", "'refuse' or 'worst'"),
        ("[spend]\nunknown_model='worst'", "spend.worst_input_usd_per_mtok", "state it"),
        ("[spend]\nworst_output_usd_per_mtok=3", "spend.worst_output_usd_per_mtok", "no effect"),
        ('[providers."a/b"]\nkind = "openai"', "providers.a/b", "a provider's name"),
        ("[database]\ndata_dir = ''", "database.data_dir", "must name a folder"),
        ('[redis]\nurl = "redis://h"', "redis.url", "not supported yet"),
        ('[database]\nurl = "mysql://h"', "database.url", "postgresql://"),
        ('[database]\ndirect_url = "postgres://h/d"', "database.direct_url", "leave it empty"),
        ('[alerts]\nkinds = ["budget_sotf"]', "alerts.kinds[0]", "'budget_soft'"),
        ('[alerts]\nwebhook_url = "hooks.example.com"', "alerts.webhook_url", "http://"),
        ("[alerts]\nsoft_pct = [0]", "alerts.soft_pct[0]", "greater than 0"),
        ("[alerts]\nspike_factor = 1", "alerts.spike_factor", "greater than or equal to 1.5"),
        ("[telemetry]\nlog_format = 'xml'", "telemetry.log_format", "'console' or 'json'"),
        ("x = = 1", "--config", "not valid TOML"),
    ],
)
def test_a_fault_names_key_and_remedy(text: str, key: str, says: str) -> None:
    """Whatever cannot be used is refused with its key and what to do about it."""
    found = faults(text)
    assert key in found
    assert says in found[key]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("TOLLWAY_SERVER__PROT", "did you mean port?"),
        ("TOLLWAY_SEVRER__PORT", "did you mean server?"),
        ("TOLLWAY_ROUTES__0__RPM", "a list"),
        ("TOLLWAY_LANES__BATCH", "TOLLWAY_LANES__NAME__KEY"),
        ("TOLLWAY_PRICES__A__INPUT_USD_PER_MTOK", "tollway.toml"),
        ("TOLLWAY_SERVER__PORT__X", "unknown key"),
    ],
)
def test_an_unknown_variable_is_refused(name: str, says: str) -> None:
    """A TOLLWAY_SECTION__KEY that leads nowhere is an error, never silence."""
    assert says in faults(environ={name: "1"})[name]


def test_the_origin_of_an_overridden_value_is_told() -> None:
    """A bad value from the environment names the variable it came from."""
    assert "TOLLWAY_SERVER__PORT" in faults(environ={"TOLLWAY_SERVER__PORT": "x"})["server.port"]


def test_faults_are_told_together() -> None:
    """Several faults, of file and environment, arrive in one error, one a line."""
    found = faults("[server]\nport = -1\nhost = ''", {"TOLLWAY_WORKER__SLOTS": "0", "TOLLWAY_NO__SUCH": "1"})
    assert set(found) == {"server.port", "server.host", "worker.slots", "TOLLWAY_NO__SUCH"}


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ('[providers.x]\nkind = "openai"\napi_key = "hunter2"', {}),
        ('[providers.x]\nkind = "openai"\napi_key_env = "hunter2-hunter2"', {}),
        ('[providers.x]\nkind = "openai"\nbase_url = "https://u:hunter2@h"', {}),
        ('[database]\nurl = "mysql://u:hunter2@h"', {}),
        ('[database]\nurl = "mysql://h?password=hunter2"', {}),
        ('[redis]\nurl = "redis://:hunter2@h"', {}),
        ('[alerts]\nwebhook_secret_env = "whsec_hunter2=="', {}),
        ('[alerts]\nwebhook_url = "https//u:hunter2@h"', {}),
        ("", {"TOLLWAY_PROVIDERS__X__API_KEY": "hunter2"}),
    ],
)
def test_secrets_are_never_shown(text: str, environ: dict[str, str]) -> None:
    """No fault repeats a password or a key, wherever it was put by mistake."""
    assert "hunter2" not in " ".join(faults(text, environ).values())


def test_a_named_file_must_exist() -> None:
    """A file that was asked for and is not there is an error; the default file may be absent."""
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(Path("nowhere.toml"), environ={})


def test_settings_are_frozen() -> None:
    """What was read stays as it was read."""
    with pytest.raises(ValidationError):
        load().server.port = 1  # type: ignore[misc]


def test_repr_hides_addresses_with_passwords() -> None:
    """Printing the settings shows no database address."""
    assert "hunter2" not in repr(load('[database]\nurl = "postgresql://u:hunter2@h/d"'))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[worker]\nslots = 6000", "worker.slots"),
        ('[worker]\nlanes = ["batch"]', "leaves out interactive"),
        ("[providers.x]\nkind = 'openai'", "no [[routes]]"),
        (ROUTED + "latency_p99_max_s = 120", "latency_p99_max_s"),
        ("[retention]\nevents_days = 0", "events_days"),
        ("[retention]\nledger_days = 5", "ledger_days"),
        ("[telemetry]\notlp_endpoint = 'http://h:4318'", "not sent yet"),
        ("[server]\nhost = '0.0.0.0'", "TLS"),
    ],
)
def test_unwise_settings_are_warned_of(text: str, says: str) -> None:
    """Settings that work but are probably not meant are named in a warning."""
    assert any(says in warning for warning in settings_warnings(load(text)))
