"""How a limit is divided: lanes by share and precedence, then max-min by weight, and over several limits at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.hotstate.sharing import Leaf, Tree, divide, fill, fill_lanes

wants_and_weights = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0.05, 20)), min_size=1, max_size=12)
names = st.sampled_from(["a", "b", "c"])
leaves_strategy = st.lists(
    st.builds(Leaf, names, names, names, st.floats(0, 1000), st.sampled_from([1.0, 2.0])), min_size=1, max_size=20
)
ROUNDING = 1e-6


def test_doormans_example() -> None:
    """Of 120, wants of 1000, 50 and 10 get 60, 50 and 10."""
    assert fill([1000, 50, 10], [1, 1, 1], 120) == pytest.approx([60, 50, 10])


@given(wants_and_weights, st.floats(0, 2e4))
def test_max_min_is_within_bounds_whole_and_fair(pairs: list[tuple[float, float]], capacity: float) -> None:
    """No share is above its want, together they are the capacity or all wants; who gets less than it wants gets, by
    weight, no less than anybody else."""
    wants, weights = [want for want, _ in pairs], [weight for _, weight in pairs]
    shares = fill(wants, weights, capacity)
    assert all(0 <= share <= want + ROUNDING for share, want in zip(shares, wants, strict=True))
    assert sum(shares) == pytest.approx(min(capacity, sum(wants)), rel=1e-9, abs=ROUNDING)
    by_weight = [share / weight for share, weight in zip(shares, weights, strict=True)]
    for at, want in enumerate(wants):
        if shares[at] < want - ROUNDING:
            assert by_weight[at] >= max(by_weight) - ROUNDING * max(1, *by_weight)


def test_lanes_then_tenants_then_agents() -> None:
    """A lane below has its share and no more, tenants of a lane are equal however many agents they have, agents of
    a tenant are."""
    leaves = [
        Leaf("fast", "t", "a", 1000),
        Leaf("slow", "t", "a", 1000),
        Leaf("slow", "t", "b", 1000),
        Leaf("slow", "u", "a", 1000),
        Leaf("slow", "v", "a", 10),
    ]
    assert Tree(leaves, {"fast": 0.3, "slow": 0.25}).fill(400) == pytest.approx([300, 22.5, 22.5, 45, 10])


def test_a_lane_without_a_share_still_has_the_least_weight() -> None:
    """P7: an unknown lane, or one whose share is 0, is sure of 0.05 of the limit."""
    leaves = [Leaf("other", "t", "a", 1000), Leaf("known", "t", "a", 1000)]
    assert Tree(leaves, {"known": 0.15}).fill(100) == pytest.approx([5, 95])


def test_urgent_work_takes_what_it_wants_but_for_the_shares_of_the_others() -> None:
    """P6: the first lane gets all it wants beside the guaranteed parts; what those do not use, it has as well."""
    assert fill_lanes([60, 500, 500], [0.3, 0.2, 0.1], 100) == pytest.approx([60, 30, 10])
    assert fill_lanes([500, 500, 5], [0.3, 0.2, 0.1], 100) == pytest.approx([75, 20, 5])
    assert fill_lanes([5, 0, 500], [0.3, 0.2, 0.1], 100) == pytest.approx([5, 0, 95])
    assert fill_lanes([500, 500], [0.8, 0.8], 100) == pytest.approx([50, 50])


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0.05, 1)), min_size=1, max_size=5), st.floats(0, 2e4))
def test_lanes_get_their_guaranteed_part_and_together_the_whole(
    lanes: list[tuple[float, float]], capacity: float
) -> None:
    """No lane above its want; each below its want has its guaranteed part; a lane has more than that only when all
    lanes before it have what they want; together they have the capacity or all they want."""
    wants, parts = [want for want, _ in lanes], [part for _, part in lanes]
    shares = fill_lanes(wants, parts, capacity)
    assert all(0 <= share <= want + ROUNDING for share, want in zip(shares, wants, strict=True))
    assert sum(shares) == pytest.approx(min(capacity, sum(wants)), rel=1e-9, abs=ROUNDING)
    scale = capacity / max(1.0, sum(parts))
    for at, share in enumerate(shares):
        assert share >= min(wants[at], parts[at] * scale) - ROUNDING
        if share > parts[at] * scale + ROUNDING:
            assert all(shares[before] >= wants[before] - ROUNDING for before in range(at))


def test_many_small_tenants_told_as_one_weigh_as_many() -> None:
    """A leaf that stands for three tenants gets three parts."""
    leaves = [Leaf("l", "big", "a", 1000), Leaf("l", "*", "*", 1000, 3.0)]
    assert Tree(leaves, {}).fill(100) == pytest.approx([25, 75])


@given(leaves_strategy, st.floats(0, 5000))
def test_the_tree_hands_out_all_and_no_more(leaves: list[Leaf], capacity: float) -> None:
    """Over the tree, too: never above a want, together the capacity or all wants."""
    shares = Tree(leaves, {"a": 0.5, "b": 0.1}).fill(capacity)
    assert all(0 <= share <= leaf.want + ROUNDING for share, leaf in zip(shares, leaves, strict=True))
    wanted = sum(leaf.want for leaf in leaves)
    assert sum(shares) == pytest.approx(min(capacity, wanted), rel=1e-9, abs=ROUNDING)


@given(
    st.lists(st.tuples(names, st.floats(0, 100), st.floats(0, 10_000)), min_size=1, max_size=10),
    st.sampled_from([(10.0, 1000.0), (10.0, 0.0), (0.0, 1000.0), (0.0, 0.0)]),
)
def test_several_limits_at_once_are_kept_and_the_first_is_used_up(
    flows: list[tuple[str, float, float]], limits: tuple[float, float]
) -> None:
    """No limit is exceeded; if not all wants are met, some limit is used up."""
    leaves = [Leaf("l", tenant, str(at), 0.0) for at, (tenant, _, _) in enumerate(flows)]
    needs = [(requests, tokens) for _, requests, tokens in flows]
    division = divide(leaves, needs, limits, {})
    for at, limit in enumerate(limits):
        taken = sum(need[at] * part for need, part in zip(needs, division.parts, strict=True))
        assert not limit or taken <= limit * (1 + 1e-6)
        assert not limit or division.usage[at] == pytest.approx(taken / limit, abs=1e-6)
    if any(part < 0.999 for part in division.parts):
        assert max(division.usage) > 0.995


def test_small_and_large_calls_fill_both_limits() -> None:
    """600 requests and 60,000 tokens a minute: flows of 10 and of 1000 tokens get equal dominant shares, not half."""
    leaves = [Leaf("l", "small", "a", 0), Leaf("l", "large", "a", 0)]
    small, large = divide(leaves, [(100, 1000), (100, 100_000)], (10, 1000), {}).parts
    assert small * 100 * 60 == pytest.approx(545, rel=0.01)
    assert large * 100 * 60 == pytest.approx(54.5, rel=0.01)
