"""The tier in memory: bounded, timed, least used out first, whatever is done with it."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tollway.llm.cache.memory import ENTRY_BYTES, SHARE_MAX, Memory

BOUND = 10 * (ENTRY_BYTES + 100)
KEYS = st.sampled_from([bytes([n]) * 32 for n in range(16)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), KEYS, st.integers(0, 400), st.floats(0.1, 20)),
        st.tuples(st.just("peek"), KEYS),
        st.tuples(st.just("drop"), KEYS),
        st.tuples(st.just("pass"), st.floats(0, 10)),
    ),
    max_size=80,
)


@given(STEPS)
def test_it_does_as_a_plain_model_of_it(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """The bound is never exceeded, nothing is given after its time, and the least used goes first."""
    memory, now = Memory(BOUND), 1000.0
    model: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
    for what, *given_ in steps:
        if what == "pass":
            now += given_[0]
        elif what == "drop":
            memory.drop(given_[0])
            model.pop(given_[0], None)
        elif what == "keep":
            key, size, ttl_s = given_
            memory.keep(key, b"x" * size, now + ttl_s)
            model.pop(key, None)
            if size + ENTRY_BYTES <= BOUND // SHARE_MAX:
                model[key] = (b"x" * size, now + ttl_s)
            while sum(len(value) + ENTRY_BYTES for value, _ in model.values()) > BOUND:
                model.popitem(last=False)
        else:
            value, expires_at = model.get(given_[0], (None, 0.0))
            if value is not None and expires_at <= now:
                value = None
                del model[given_[0]]
            elif value is not None:
                model.move_to_end(given_[0])
            assert memory.peek(given_[0], now) == value
        weight = sum(len(value) + ENTRY_BYTES for value, _ in model.values())
        assert (len(memory), memory.bytes) == (len(model), weight)
        assert memory.bytes <= BOUND


def test_the_time_is_over_at_its_very_end() -> None:
    """An answer is given until its end and not at it; an answer kept anew has its new time."""
    memory = Memory(BOUND)
    memory.keep(b"k", b"v", 10.0)
    assert memory.peek(b"k", 9.999) == b"v"
    memory.keep(b"k", b"w", 20.0)
    assert memory.peek(b"k", 10.0) == b"w"
    assert memory.peek(b"k", 20.0) is None
    assert (len(memory), memory.bytes) == (0, 0)


def test_what_was_just_used_stays() -> None:
    """A full memory drops the value that was kept or given longest ago."""
    memory = Memory(8 * (ENTRY_BYTES + 1))
    for n in range(8):
        memory.keep(bytes([n]), b"v", 10.0)
    memory.peek(bytes([0]), 1.0)
    memory.keep(b"new", b"v", 10.0)
    assert memory.peek(bytes([0]), 1.0) == b"v"
    assert memory.peek(bytes([1]), 1.0) is None
    assert len(memory) == 8


def test_a_giant_drives_nobody_out() -> None:
    """A value above an eighth of the whole is not kept, and the one it would have replaced is gone."""
    memory = Memory(BOUND)
    memory.keep(b"k", b"v", 10.0)
    memory.keep(b"other", b"v", 10.0)
    memory.keep(b"k", b"x" * BOUND, 10.0)
    assert memory.peek(b"k", 1.0) is None
    assert memory.peek(b"other", 1.0) == b"v"
