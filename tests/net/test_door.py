"""Who shakes hands, whose turn it is, and who has to go: the laws of the door, whoever comes."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.net.door import HandshakeLimiter

PLACES = 8
SOURCES = st.sampled_from("abcdefghijkl")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), SOURCES),
        st.tuples(st.sampled_from(["hear", "ready", "leave"]), st.integers(0, PLACES)),
        st.tuples(st.just("turn"), st.floats(0, 3)),
        st.tuples(st.just("wait"), st.floats(0, 3)),
    ),
    max_size=120,
)


class Model:
    """A door, and what is known of it from outside."""

    def __init__(self) -> None:
        self.door: HandshakeLimiter[int] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
        self.inside: dict[int, str] = {}
        self.spoke: set[int] = set()
        self.waiting: set[int] = set()
        self.since: dict[int, float] = {}
        self.now = 0.0
        self.numbers = count()

    def enter(self, source: str) -> None:
        one = next(self.numbers)
        self.inside[one], self.since[one] = source, self.now
        held = Counter(self.inside.values())
        loser = self.door.enter(one, source, self.now)
        assert (loser is None) == (len(self.inside) <= PLACES)
        if loser is not None:
            self.gone(loser, among=held, newcomer=one)

    def gone(self, loser: int, *, among: Counter[str], newcomer: int) -> None:
        source = self.inside[loser]
        assert loser != newcomer
        assert among[source] == max(among.values())
        rivals = [one for one, each in self.inside.items() if each == source and one != newcomer]
        if loser in self.spoke:
            assert self.spoke.issuperset(rivals)
        assert loser == min(one for one in rivals if (one in self.spoke) == (loser in self.spoke))
        self.forget(loser)

    def forget(self, one: int) -> None:
        del self.inside[one]
        self.spoke.discard(one)
        self.waiting.discard(one)

    def do(self, step: str, value: object) -> None:
        match step, value:
            case "enter", str(source):
                self.enter(source)
            case "wait", float(seconds):
                self.now += seconds
                for one, spoke in self.door.late(self.now).items():
                    assert spoke == (one in self.spoke)
                    assert self.now - self.since[one] >= (5.0 if spoke else 2.0)
                    self.forget(one)
            case "turn", float(seconds):
                one = self.door.turn()
                assert (one is None) == (not self.waiting)
                if one is not None:
                    self.waiting.remove(one)
                    self.door.spend(self.inside[one], seconds, in_vain=seconds > 2)
            case _, int(index) if index < len(self.inside):
                one = list(self.inside)[index]
                if step == "leave":
                    self.door.leave(one)
                    self.forget(one)
                    return
                self.door.hear(one)
                self.spoke.add(one)
                if step == "ready":
                    self.door.ready(one)
                    self.waiting.add(one)


@given(STEPS)
def test_places_are_for_all(steps: list[tuple[str, object]]) -> None:
    """The newcomer is in; who goes is of the source that holds the most, the silent first, then whoever came first."""
    model = Model()
    for step, value in steps:
        model.do(step, value)
        assert len(model.door) == len(model.inside) <= PLACES
        for kept in (model.door._held, model.door._silent, model.door._ready):
            assert all(kept.values())
            assert sum(map(len, kept.values())) <= PLACES
        assert len(model.door._spent) <= PLACES


@given(STEPS)
def test_who_comes_from_a_new_source_waits_for_one_turn_of_each_other(steps: list[tuple[str, object]]) -> None:
    model = Model()
    for step, value in steps:
        model.do(step, value)
    model.enter("new")
    newcomer = max(model.inside)
    model.door.hear(newcomer)
    model.door.ready(newcomer)
    model.waiting.add(newcomer)
    sources = {model.inside[one] for one in model.waiting}
    turns = 0
    while (one := model.door.turn()) != newcomer:
        assert one is not None
        turns += 1
        model.door.spend(model.inside[one], 0.0, in_vain=False)
        model.door.ready(one)  # everybody else always has more to say
    assert turns < len(sources)


@given(st.integers(1, PLACES - 1), st.integers(1, 40))
def test_who_keeps_to_a_share_loses_nothing(others: int, each: int) -> None:
    """However many come from each of the others."""
    door: HandshakeLimiter[tuple[str, int]] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    share = PLACES // (others + 1)
    for number in range(share):
        door.enter(("own", number), "own", 0.0)
    for number in range(each):
        for other in range(others):
            loser = door.enter((str(other), number), str(other), 0.0)
            assert loser is None or loser[0] != "own"


@given(st.floats(0.002, 10), st.integers(2, 6))
def test_long_turns_make_the_next_wait(long_s: float, sources: int) -> None:
    """What a source takes, all others may take before it has another turn."""
    door: HandshakeLimiter[str] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    names = [str(number) for number in range(sources)]
    spent = dict.fromkeys(names, 0.0)
    for name in names:
        door.enter(name, name, 0.0)
        door.ready(name)
    for _ in range(50):
        one = door.turn()
        assert one is not None
        assert spent[one] <= min(spent.values()) + 1e-6
        door.ready(one)
        seconds = long_s if one == "0" else 0.002
        spent[one] += seconds
        door.spend(one, seconds, in_vain=False)


def test_what_came_to_nothing_counts_more() -> None:
    door: HandshakeLimiter[str] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    for name in ("bad", "good"):
        door.enter(name, name, 0.0)
        door.ready(name)
    turns = []
    for _ in range(12):
        one = door.turn()
        assert one is not None
        turns.append(one)
        door.ready(one)
        door.spend(one, 0.001, in_vain=one == "bad")
    assert turns == ["bad"] + ["good"] * 11


def test_leaving_pays_nothing_back() -> None:
    """Who comes back after each turn does not go before the others for it."""
    door: HandshakeLimiter[object] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    door.enter("patient", "a", 0.0)
    door.ready("patient")
    for _ in range(3):
        again = object()
        door.enter(again, "b", 0.0)
        door.ready(again)
        turn = door.turn()
        if turn == "patient":
            break
        door.spend("b", 1.0, in_vain=False)
        door.leave(again)
    else:
        raise AssertionError("it never had its turn")


def test_a_quiet_moment_forgets_everything() -> None:
    door: HandshakeLimiter[int] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    for number in range(5):
        door.enter(number, str(number), 0.0)
        door.ready(number)
        assert door.turn() == number
        door.spend(str(number), 100.0, in_vain=True)
    assert door._spent == {}


def test_when_to_look_again() -> None:
    door: HandshakeLimiter[str] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    assert door.until() is None
    door.enter("one", "a", 10.0)
    door.late(10.0)
    assert door.until() == pytest.approx(10.1)
    assert door.late(10.05) == {}
    door.ready("one")
    assert door.until() == 0.0
    assert door.turn() == "one"
    assert door.turn() is None
    assert door.late(12.0) == {"one": False}
    assert door.until() is None


def test_one_who_has_spoken_has_longer() -> None:
    door: HandshakeLimiter[str] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    door.enter("one", "a", 10.0)
    door.hear("one")
    assert door.late(14.9) == {}
    assert door.late(15.0) == {"one": True}


def test_where_descriptors_are_short() -> None:
    door: HandshakeLimiter[str] = HandshakeLimiter(places=PLACES, silent_s=2.0, handshake_s=5.0)
    assert door.crowded_out() is None
    for name, source in (("a1", "a"), ("b1", "b"), ("b2", "b")):
        door.enter(name, source, 0.0)
    assert [door.crowded_out() for _ in range(4)] == ["b1", "a1", "b2", None]


def test_where_all_places_are_taken_one_goes_for_each_that_comes() -> None:
    door: HandshakeLimiter[str] = HandshakeLimiter(places=2, silent_s=2.0, handshake_s=5.0)
    assert door.enter("a1", "a", 0.0) is None
    assert door.enter("a2", "a", 0.0) is None
    assert door.enter("b1", "b", 0.0) == "a1"
    assert len(door) == 2
