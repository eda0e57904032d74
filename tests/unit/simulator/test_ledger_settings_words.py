"""The ledger's columns and sums, the settings' checks and merges, and the words of plain answers."""

import pytest

from tollway.domain.errors import ConfigError
from tollway.simulator.buckets import Rates
from tollway.simulator.faults import Fault
from tollway.simulator.ledger import Entry, Ledger
from tollway.simulator.settings import Settings
from tollway.simulator.words import fingerprint, words


def test_rows_come_back_as_they_were_written() -> None:
    """Every column of every row survives the compact form, ids of any length and missing ones included."""
    ledger = Ledger()
    ledger.add(Entry(b"one", "m1", 1_000_000_000.25, 0.05, 3, 20, 12_450))
    ledger.add(Entry(b"", "m2", 1_000_000_001.0, 0.0, status=429))
    ledger.add(Entry(b"three", "m1", 1_000_000_002.0, 1.0, 5, 2, 1_950, 499, Fault.CANCELLED))
    rows = list(ledger.rows())
    assert [row.n for row in rows] == [1, 2, 3]
    assert [row.call_id for row in rows] == ["one", None, "three"]
    assert [row.model for row in rows] == ["m1", "m2", "m1"]
    assert [row.status for row in rows] == [200, 429, 499]
    assert [row.fault for row in rows] == [None, None, "cancelled"]
    assert rows[0].at == "2001-09-09T01:46:40.250Z"
    assert (rows[0].input_tokens, rows[0].output_tokens, rows[0].cost_nano, rows[0].took_ms) == (3, 20, 12_450, 50.0)


def test_pages_of_rows_join_without_gap_or_overlap() -> None:
    """Reading by `after` and `limit` yields every row once, with its own id."""
    ledger = Ledger()
    for n in range(25):
        ledger.add(Entry(b"x" * n, "m", 0.0))
    seen: list[int] = []
    while page := list(ledger.rows(len(seen), 7)):
        seen += [len(row.call_id or "") for row in page]
    assert seen == list(range(25))
    assert list(ledger.rows(99)) == []


def test_totals_are_the_sums_of_the_rows() -> None:
    """Totals kept along the way equal what the rows add up to, and vanish with them."""
    ledger = Ledger()
    for n in range(100):
        ledger.add(Entry(b"c", f"m{n % 3}", 0.0, 0.0, n, 2 * n, 3 * n, 200 if n % 2 else 500))
    rows, totals = list(ledger.rows()), ledger.totals()
    assert totals.calls == 100
    assert totals.by_status == {"200": 50, "500": 50}
    assert totals.by_model == {"m0": 34, "m1": 33, "m2": 33}
    assert totals.cost_nano == sum(row.cost_nano for row in rows)
    assert totals.output_tokens == sum(row.output_tokens for row in rows)
    ledger.clear()
    assert ledger.totals().calls == 0
    assert list(ledger.rows()) == []


def test_default_prices_are_whole_nano_dollars() -> None:
    """An input token costs exactly 150 nano-dollars by default, an output token 600."""
    profile = Settings({}).profile("any")
    assert profile.cost_nano(1, 0) == 150
    assert profile.cost_nano(0, 1) == 600
    assert profile.cost_nano(1000, 10) == 156_000


def test_a_price_of_less_than_a_nano_a_token_is_rounded_once_a_call() -> None:
    """Costs are exact integers over the whole call, rounded half up at the end."""
    profile = Settings({"prices": {"input_usd_per_mtok": 0.0005}}).profile("any")
    assert profile.cost_nano(3, 0) == 2


def test_a_change_merges_and_leaves_the_rest() -> None:
    """Rates and models merge key by key, laws are replaced whole, null goes back to the default."""
    settings = Settings({"latency_s": {"mean": 1, "law": "lognormal"}, "fault_rates": {"slow": 0.1}, "rpm": 60})
    changed = settings.changed(
        {"latency_s": {"mean": 2}, "fault_rates": {"cut": 0.2}, "rpm": None, "models": {"a": {"tpm": 6}, "b": {}}}
    )
    assert changed.shown["latency_s"] == {"mean": 2.0, "law": "constant", "cv": None}
    assert changed.shown["fault_rates"]["slow"] == 0.1
    assert changed.shown["fault_rates"]["cut"] == 0.2
    assert changed.shown["rpm"] == 0
    again = changed.changed({"models": {"a": {"rpm": 60}, "b": None}})
    assert again.document["models"] == {"a": {"tpm": 6, "rpm": 60}}
    assert settings.shown["rpm"] == 60


def test_a_model_differs_only_in_its_own_keys() -> None:
    """A model takes every other setting from the top; with limits of its own it has buckets of its own."""
    settings = Settings({"rpm": 60, "fault_rates": {"slow": 0.5}, "models": {"a": {"rpm": 6}, "b": {"latency_s": 1}}})
    assert settings.profile("a").limits_key == Rates(rpm=6)
    assert settings.profile("a").limits_of == "a"
    assert settings.profile("b").limits_of == ""
    assert settings.profile("b").latency.mean == 1
    assert settings.profile("c").latency.mean == 0.05


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rmp": 1}, "rmp"),
        ({"rpm": -1}, "rpm"),
        ({"rpm": "many"}, "rpm"),
        ({"seed": 1.5}, "seed"),
        ({"bucket_s": 0}, "bucket_s"),
        ({"latency_s": {"mean": 1, "law": "gamma"}}, "gamma"),
        ({"latency_s": {"mean": 1, "law": "uniform", "cv": 3}}, "uniform"),
        ({"fault_rates": {"slow": 0.7, "cut": 0.7}}, "more than 1"),
        ({"fault_rates": {"fast": 0.7}}, "fast"),
        ({"models": {"a": {"seed": 1}}}, "models.a"),
        ({"models": {"a": {"rpm": -1}}}, "models.a"),
        ({"models": []}, "models"),
        ([], "object"),
    ],
)
def test_a_bad_setting_is_named(change: object, told: str) -> None:
    """P11: what cannot be used is refused with the key or value at fault."""
    with pytest.raises(ConfigError, match=told):
        Settings({}).changed(change)


@pytest.mark.parametrize("count", [1, 2, 20, 4096, 10_000])
def test_words_are_exactly_as_many_as_asked(count: int) -> None:
    """A plain answer of n tokens has n words, and the same prompt gives the same ones."""
    mark = fingerprint(["hello"], 1)
    text = words(mark, count)
    assert len(text.split(" ")) == count
    assert "" not in text.split(" ")
    assert text == words(fingerprint(["hello"], 1), count)
    assert text.isascii()


def test_prompt_and_seed_both_change_the_words() -> None:
    """Other prompts and other seeds get other answers."""
    texts = {words(fingerprint([prompt], seed), 12) for prompt in ("a", "b") for seed in (0, 1)}
    assert len(texts) == 4
