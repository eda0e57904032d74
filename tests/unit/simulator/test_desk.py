"""What becomes of calls, in virtual time: limits, chance and bills."""

from typing import Any

import pytest

from tollway.simulator.desk import Desk, Plan, pieces
from tollway.simulator.ledger import Entry
from tollway.simulator.neutral import Ask, BadAsk
from tollway.simulator.settings import Settings


def desk(**config: Any) -> Desk:
    return Desk(Settings({}).changed(config), now=0.0)


def plan(at: Desk, now: float = 0.0, model: str = "m", max_tokens: int | None = None, **fields: Any) -> Plan:
    return at.plan(Ask(model, ["x" * 40], max_tokens, **fields), at.next_number(), now)


def test_equal_seeds_give_equal_fates() -> None:
    """Two desks with one seed decide alike on the same calls; another seed decides otherwise; a reset starts over."""
    config: dict[str, Any] = {
        "latency_s": {"mean": 1, "law": "lognormal"},
        "output_tokens": {"mean": 50, "law": "exponential"},
        "fault_rates": {"slow": 0.2, "cut": 0.2, "status_500": 0.2},
    }

    def fates(at: Desk) -> list[Any]:
        plans = [plan(at) for _ in range(50)]
        return [(one.status, one.fault, one.delay_s, one.answer and one.answer.text) for one in plans]

    one, same, other = desk(seed=1, **config), desk(seed=1, **config), desk(seed=2, **config)
    first = fates(one)
    assert first == fates(same)
    assert first != fates(other)
    one.reset(0.0)
    assert fates(one) == first


def test_tokens_are_counted_up_front_by_input_and_max_tokens() -> None:
    """tpm takes the input and what the request allows, not what was made; without max_tokens, what will be made."""
    at = desk(tpm=6000, output_tokens=5)
    gauge = (plan(at, max_tokens=40).gauges or (None, None))[1]
    assert gauge is not None
    assert gauge.remaining == 100 - 10 - 40
    gauge = (plan(at).gauges or (None, None))[1]
    assert gauge is not None
    assert gauge.remaining == 50 - 10 - 5
    refused = plan(at, max_tokens=91)
    assert (refused.status, refused.retry_after_s) == (429, float("inf"))
    assert "too large" in refused.message


def test_models_with_limits_of_their_own_do_not_share() -> None:
    """A model's own limit neither uses nor is used by the others'; models without one share the top one."""
    at = desk(rpm=60, models={"own": {"rpm": 60}, "slow": {"latency_s": 9}})
    assert [plan(at, model=model).status for model in ("a", "b", "slow", "own", "own")] == [200, 429, 429, 200, 429]


def test_a_change_keeps_the_level_of_unchanged_limits() -> None:
    """Changing something else refills no bucket; changing the limit makes a new, full one."""
    at = desk(rpm=60)
    assert plan(at).status == 200
    at.change(at.settings.changed({"latency_s": 1}), 0.0)
    assert plan(at).status == 429
    at.change(at.settings.changed({"rpm": 120}), 0.0)
    assert plan(at).status == 200


def test_failed_calls_count_against_limits_and_refused_ones_do_not() -> None:
    """An injected 500 takes from the bucket as with the vendors; an injected 429 does not."""
    at = desk(rpm=60, fault_rates={"status_500": 1})
    assert [plan(at).status, plan(at).status] == [500, 429]
    at = desk(rpm=60, fault_rates={"status_429": 1})
    assert plan(at).status == 429
    at.change(at.settings.changed({"fault_rates": {"status_429": 0}}), 0.0)
    assert plan(at).status == 200


def test_the_time_of_an_answer() -> None:
    """A plain answer takes latency and generation; a stream's first byte the latency alone; slow adds slow_s."""
    at = desk(latency_s=0.5, tokens_per_s=40, output_tokens=20)
    assert plan(at).delay_s == pytest.approx(1.0)
    assert plan(at, stream=True).delay_s == pytest.approx(0.5)
    at.change(at.settings.changed({"fault_rates": {"slow": 1}, "slow_s": 3}), 0.0)
    assert plan(at).delay_s == pytest.approx(4.0)


def test_a_bill_is_input_and_the_share_of_output_made() -> None:
    """A whole answer is billed in full; half a stream its whole input and half of its output; an error nothing."""
    at = desk(output_tokens=21)
    for share, output in ((1.0, 21), (0.5, 10), (0.0, 0)):
        entry = Entry(b"", "m", 0.0)
        plan(at).bill(entry, share)
        assert (entry.input_tokens, entry.output_tokens) == (10, output)
        assert entry.cost_nano == 10 * 150 + output * 600
    at.change(at.settings.changed({"fault_rates": {"status_500": 1}}), 0.0)
    entry = Entry(b"", "m", 0.0)
    plan(at).bill(entry)
    assert (entry.status, entry.input_tokens, entry.cost_nano) == (500, 0, 0)


def test_an_impossible_schema_is_the_callers_fault() -> None:
    """A schema nothing fits is a bad request, not a failure of the provider."""
    with pytest.raises(BadAsk, match="schema"):
        plan(desk(), schema=b'{"enum": []}')


def test_pieces_join_to_the_text() -> None:
    """What streams is the text: a word a piece, or four characters of JSON."""
    answer = plan(desk(output_tokens=7)).answer
    assert answer is not None
    assert len(pieces(answer, structured=False)) == 7
    assert "".join(pieces(answer, structured=False)) == answer.text
    assert "".join(pieces(answer, structured=True)) == answer.text
