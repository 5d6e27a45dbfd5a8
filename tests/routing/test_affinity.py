"""Bindings of conversations to accounts: bounded, counted, and the same after a restart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import AccountLabel
from eggpool.routing.affinity import SHARDS, Affinity, Binding, Tally

NOW_MS = 1_800_000_000_000
LIFETIME_MS = 300_000
A, B = AccountLabel("p/a"), AccountLabel("p/b")


def key(number: int) -> bytes:
    """The key of a conversation."""
    return number.to_bytes(2, "little") * 8


def affinity(max_bindings: int = 1000) -> Affinity:
    """A map without bindings."""
    return Affinity(LIFETIME_MS, max_bindings)


KEYS = st.integers(0, 20).map(key)
USES = st.lists(st.tuples(KEYS, st.sampled_from([A, B]), st.integers(0, LIFETIME_MS)), max_size=40)


def used(bindings: Affinity, uses: list[tuple[bytes, AccountLabel, int]], now_ms: int = NOW_MS) -> int:
    """Bind one after the other, each so much later; gives the time at the end."""
    for name, account, later_ms in uses:
        now_ms += later_ms
        bindings.bind(name, account, now_ms)
    return now_ms


def test_a_binding_is_warm_for_its_lifetime() -> None:
    """A conversation is where it was served last, warm until the lifetime has passed without a use."""
    bindings = affinity()
    assert bindings.bound(key(1), NOW_MS) is None
    assert bindings.bound(None, NOW_MS) is None
    bindings.bind(key(1), A, NOW_MS)
    assert bindings.bound(key(1), NOW_MS + LIFETIME_MS) == Binding(A, NOW_MS, warm=True)
    assert bindings.bound(key(1), NOW_MS + LIFETIME_MS + 1) == Binding(A, NOW_MS, warm=False)
    bindings.bind(key(1), B, NOW_MS + 5)
    assert bindings.bound(key(1), NOW_MS + 6) == Binding(B, NOW_MS + 5, warm=True)


def test_a_clock_that_is_set_back_does_not_keep_a_binding_warm_for_ever() -> None:
    """A use that lies far in the future is as cold as one that lies far in the past."""
    bindings = affinity()
    bindings.bind(key(1), A, NOW_MS)
    assert bindings.bound(key(1), NOW_MS - LIFETIME_MS - 1) == Binding(A, NOW_MS, warm=False)


def test_what_came_of_a_binding_is_counted() -> None:
    """Each request is one of begun, hit, move and escape; what was left is charged to the account that lost it."""
    bindings = affinity()
    bindings.bind(key(1), A, NOW_MS)
    bindings.bind(key(1), A, NOW_MS)
    bindings.bind(key(1), A, NOW_MS)
    bindings.bind(key(1), B, NOW_MS)
    bindings.bind(key(1), A, NOW_MS, escaped=True)
    bindings.bind(key(1), B, NOW_MS + LIFETIME_MS + 1)
    bindings.cached(B, 100, 7)
    bindings.cached(B, 50, 3)
    assert bindings.tally(A) == Tally(begun=1, hits=2, moves=1)
    assert bindings.tally(B) == Tally(begun=1, escapes=1, cached_tokens=150, saved_nanodollars=10)
    assert bindings.tally() == Tally(2, 2, 1, 1, 150, 10)


def test_requests_that_come_together_stay_together() -> None:
    """Whoever comes before a conversation's first answer follows the first request, and nothing is counted for it."""
    bindings = affinity()
    bindings.expect(key(1), A, NOW_MS)
    assert bindings.bound(key(1), NOW_MS + 1) == Binding(A, NOW_MS, warm=True)
    bindings.expect(key(1), B, NOW_MS + 1)
    assert bindings.bound(key(1), NOW_MS + 1) == Binding(A, NOW_MS, warm=True)
    assert (bindings.tally(), bindings.unsaved(NOW_MS)) == (Tally(), {})
    # The first account failed, another one answered: that is where the conversation begins.
    bindings.bind(key(1), B, NOW_MS + 2)
    bindings.bind(key(1), B, NOW_MS + 3)
    assert bindings.tally() == Tally(begun=1, hits=1)
    assert bindings.tally(A) == Tally()
    bindings.expect(key(1), A, NOW_MS + 4)
    assert bindings.bound(key(1), NOW_MS + 4) == Binding(B, NOW_MS + 3, warm=True)
    bindings.expect(key(1), A, NOW_MS + LIFETIME_MS + 4)
    assert bindings.bound(key(1), NOW_MS + LIFETIME_MS + 4) == Binding(A, NOW_MS + LIFETIME_MS + 4, warm=True)


def test_what_is_only_expected_is_not_kept() -> None:
    """A restart gives back only where a conversation was really answered."""
    bindings = affinity()
    bindings.bind(key(1), A, NOW_MS)
    other = next(number for number in range(2, 1000) if key(number)[0] % SHARDS == key(1)[0] % SHARDS)
    bindings.expect(key(other), A, NOW_MS)
    (text,) = bindings.unsaved(NOW_MS).values()
    assert json.loads(str(text)) == {A: {key(1).hex(): NOW_MS}}


@given(USES)
def test_every_request_is_counted_once(uses: list[tuple[bytes, AccountLabel, int]]) -> None:
    """The four ends of a request add up to the requests."""
    bindings = affinity()
    used(bindings, uses)
    tally = bindings.tally()
    assert tally.begun + tally.hits + tally.moves + tally.escapes == len(uses)


@given(USES, st.integers(1, 5))
def test_the_oldest_are_forgotten_at_the_bound(uses: list[tuple[bytes, AccountLabel, int]], most: int) -> None:
    """There are never more bindings than the bound, and those that are left were used last."""
    bindings = affinity(most)
    now_ms = used(bindings, uses)
    latest = list(dict.fromkeys(name for name, _, _ in reversed(uses)))
    assert len(bindings) == min(most, len(latest))
    for rank, name in enumerate(latest):
        assert (bindings.bound(name, now_ms) is not None) == (rank < most)


def test_spread() -> None:
    """Only warm conversations are shown at their accounts."""
    bindings = affinity()
    bindings.bind(key(1), A, NOW_MS)
    for number in range(2, 5):
        bindings.bind(key(number), A, NOW_MS + LIFETIME_MS)
    bindings.bind(key(5), B, NOW_MS + LIFETIME_MS)
    assert bindings.spread(NOW_MS + LIFETIME_MS + 1) == {A: 3, B: 1}


@given(USES, st.lists(st.integers(0, 40)))
def test_a_restart_changes_nothing(uses: list[tuple[bytes, AccountLabel, int]], saved_after: list[int]) -> None:
    """Whenever changes are saved on the way, what is kept at the end gives every warm binding back."""
    bindings = affinity()
    kept: dict[str, str] = {}
    now_ms = NOW_MS

    def save() -> None:
        for name, text in bindings.unsaved(now_ms).items():
            if text is None:
                del kept[name]  # a name is given up only after it was given
            else:
                kept[name] = text

    for number, (name, account, later_ms) in enumerate(uses):
        now_ms += later_ms
        bindings.bind(name, account, now_ms)
        if number in saved_after:
            save()
    save()
    restored = affinity()
    restored.restore({**kept, "rest:x": "{}"}, now_ms)
    for name, _, _ in uses:
        before, after = bindings.bound(name, now_ms), restored.bound(name, now_ms)
        if before is not None and before.warm:
            # A binding that is only used on is not written each time.
            assert after is not None
            assert after.account == before.account
            assert 0 <= before.used_at_ms - after.used_at_ms <= LIFETIME_MS // 4
    if not uses:
        assert kept == {}
    # Nothing is left behind when everything is cold.
    now_ms += 3 * LIFETIME_MS
    save()
    assert kept == {}
    assert bindings.unsaved(now_ms) == {}


@given(st.dictionaries(KEYS, st.tuples(st.sampled_from([A, B]), st.integers(0, LIFETIME_MS))))
def test_restored_bindings_are_the_same(made: dict[bytes, tuple[AccountLabel, int]]) -> None:
    """What is saved at once is restored to the millisecond, and forgotten in the same order."""
    order = sorted(made, key=lambda name: made[name][1])
    bindings = affinity()
    for name in order:
        bindings.bind(name, made[name][0], NOW_MS + made[name][1])
    texts = {name: text for name, text in bindings.unsaved(NOW_MS + LIFETIME_MS).items() if text is not None}
    assert len(texts) <= SHARDS
    restored = affinity(max(len(made), 1))
    restored.restore(texts, NOW_MS + LIFETIME_MS)
    for name in made:
        assert restored.bound(name, NOW_MS) == bindings.bound(name, NOW_MS)
    assert restored.tally() == Tally()


def test_a_smaller_map_takes_back_the_newest() -> None:
    """Whatever does not fit any more is what was used first."""
    bindings = affinity()
    for number in range(100):
        bindings.bind(key(number), A, NOW_MS + number)
    restored = affinity(10)
    restored.restore({name: str(text) for name, text in bindings.unsaved(NOW_MS + 100).items()}, NOW_MS + 100)
    assert [number for number in range(100) if restored.bound(key(number), NOW_MS)] == list(range(90, 100))
    restored.bind(key(200), B, NOW_MS + 100)
    assert restored.bound(key(90), NOW_MS) is None


def test_a_binding_that_is_used_on_is_rarely_written() -> None:
    """One request per second for a lifetime costs a handful of rows, and a move is written at once."""
    bindings = affinity()
    written = 0
    for second in range(LIFETIME_MS // 1000):
        bindings.bind(key(1), A, NOW_MS + second * 1000)
        written += len(bindings.unsaved(NOW_MS + second * 1000))
    assert written == 4
    bindings.bind(key(1), B, NOW_MS + LIFETIME_MS)
    assert len(bindings.unsaved(NOW_MS + LIFETIME_MS)) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"p/a": 1}', '{"p/a": {"zz": 1}}', '{"p/a": {"": 1}}', '{"p/a": {"00": "x"}}']
)
def test_what_cannot_be_read_is_passed_over(text: str) -> None:
    """A text that is none of ours takes nothing else with it."""
    good = json.dumps({"p/a": {key(1).hex(): NOW_MS}})
    bindings = affinity()
    bindings.restore({"affinity:0": text, "affinity:1": good}, NOW_MS)
    assert bindings.bound(key(1), NOW_MS) == Binding(A, NOW_MS, warm=True)
    assert len(bindings) == 1
