"""Whatever happens, in whatever order: nothing is raised, and nothing comes out that should not."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.aggregator.events import Joined, Left, Said, Tick
from cloister.errors import CloisterError
from cloister.ledger.chain import Ledger
from cloister.wire import rounds as w
from tests.laws import examples
from tests.support.owners import LENGTH, OWNERS, Heard, Owner, agree, key_of
from tests.support.rounds import Study

NAMES = (*OWNERS, "rosa")
small = st.integers(1, 4)
digests = st.sampled_from([bytes(32), b"\1" * 32])
signatures = st.builds(
    w.MemberSignature, st.sampled_from(list(map(key_of, OWNERS))), st.binary(max_size=40), st.binary(max_size=70)
)
standings = st.one_of(
    st.builds(w.Standing, st.builds(w.SignedAnswer, st.binary(max_size=90), signatures)),
    st.sampled_from([Owner(name, agree(floor="2", job={"rounds": 3})).standing(1) for name in OWNERS]),
)
messages = st.one_of(
    st.builds(w.Join, st.integers(0, 6), st.sampled_from([b"", bytes(32)]), st.integers(0, 9), st.booleans()),
    st.builds(
        w.Ready,
        small,
        st.integers(1, 50),
        st.floats(0, 10),
        st.floats(0, 10),
        st.dictionaries(st.just("loss"), st.floats()),
        digests,
        standings,
    ),
    st.builds(w.Contribution, small, digests),
    st.builds(w.Declined, small, st.just("no"), st.none() | standings),
    st.builds(w.Consent, small, digests, signatures),
    st.builds(w.Commit, small, signatures),
    st.builds(w.Chain, st.integers(0, 5), st.lists(st.integers(0, 30), max_size=2).map(tuple), st.integers(0, 60)),
    st.builds(w.Submit, st.integers(0, 20)),
    st.builds(w.Stop),
    st.builds(w.Over, small, st.just("")),
)
bodies = st.one_of(st.just(b""), st.binary(max_size=60), st.just(bytes(LENGTH * 4)))
actions = st.one_of(
    st.tuples(st.just("read"), st.sampled_from(NAMES)),
    st.tuples(st.just("read"), st.sampled_from(NAMES)),
    st.tuples(st.just("read all"), st.sampled_from(NAMES)),
    st.tuples(st.just("lose"), st.sampled_from(NAMES)),
    st.tuples(st.just("twice"), st.sampled_from(NAMES)),
    st.tuples(st.just("say"), st.sampled_from(NAMES), messages, bodies),
    st.tuples(st.just("leave"), st.sampled_from(NAMES)),
    st.tuples(st.just("join"), st.sampled_from(NAMES)),
    st.tuples(st.just("submit"), st.just("rosa")),
    st.tuples(st.just("tick"), st.just("")),
    st.tuples(st.just("restart"), st.just("")),
)


class World:
    """A study in which everything can go wrong, and what must hold all the same."""

    def __init__(self) -> None:
        self.study = Study(agree(floor="2", job={"rounds": 3}))
        self.study.join()
        self.study.submit()
        self.restarts = 0
        self.proposed: set[int] = set()
        self.signed: dict[str, dict[int, tuple[bytes, bytes]]] = {name: {} for name in OWNERS}
        self.released: dict[int, set[bytes]] = {}

    def do(self, action: tuple[Any, ...]) -> None:
        what, name = action[:2]
        instance = self.study.instance
        match what:
            case "read" | "twice":
                self.read(name, times=1 if what == "read" else 2)
            case "read all":
                while instance.heard.get(key_of(name)) and self.study.instance is instance:
                    self.read(name)
            case "lose" if instance.heard.get(key_of(name)):
                instance.heard[key_of(name)].popleft()
            case "say":
                instance.say(name, *action[2:])
            case "leave":
                instance.disconnect(name)
            case "join" if key_of(name) not in instance.heard:
                self.study.parties[name].job = b""  # type: ignore[attr-defined]
                self.study.join(name)
            case "submit":
                self.study.submit()
            case "tick" if instance.rounds.due is not None:
                instance.tick()
            case "restart":
                self.restarts += 1
                self.study.restart(seed=self.restarts)

    def read(self, name: str, *, times: int = 1) -> None:
        instance, party = self.study.instance, self.study.parties[name]
        told = instance.heard.get(key_of(name))
        if not told:
            return
        heard = told.popleft()
        try:
            answers = party.answer(heard)
        except (AssertionError, CloisterError):  # it lost something before, and begins again
            instance.disconnect(name)
            return
        for message, body in answers:
            if isinstance(message, w.Commit) and not self.promise(name, heard):
                message = w.Declined(message.round, "another cohort was committed for this round")
            for _ in range(times):
                instance.say(name, message, body)

    def promise(self, name: str, heard: Heard) -> bool:
        """An owner commits one cohort a round, and none for one before it has answered; it does not forget."""
        signed = self.signed[name]
        number, cohort = heard.message.round, (heard.message.cohort, heard.message.outcome)
        if number < self.study.owners[name].round or number <= max(signed, default=0):
            return signed.get(number) == cohort
        signed[number] = cohort
        return True

    def check(self) -> None:
        ledger = self.study.instance.ledger
        Ledger.from_records(self.study.charter, ledger.records)  # floors, signatures, rounds that increase
        for receipt in ledger.receipts:
            self.released.setdefault(receipt.cohort.round, set()).add(receipt.record.cohort)
        assert all(len(cohorts) == 1 for cohorts in self.released.values())
        assert self.study.instance.rounds.due is None or self.study.instance.rounds.due > 0


@pytest.mark.slow
@settings(max_examples=examples(200))
@given(st.lists(actions, max_size=120))
def test_whatever_happens_the_promises_hold(schedule: list[tuple[Any, ...]]) -> None:
    world = World()
    for action in schedule:
        world.do(action)
    world.check()


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(actions, max_size=40))
def test_whatever_happened_the_study_comes_to_its_end(schedule: list[tuple[Any, ...]]) -> None:
    """Once members keep to the rules again, and time passes."""
    world = World()
    for action in schedule:
        world.do(action)
    study = world.study
    for name in NAMES:
        study.instance.disconnect(name)
    world.do(("restart", ""))
    for _ in range(30):
        for name in NAMES:
            world.do(("join", name))
        world.do(("submit", "rosa"))
        for _ in range(100):
            for name in NAMES:
                world.read(name)
        if study.instance.ledger.released >= 3:
            break
        world.do(("tick", ""))
    assert study.instance.ledger.released == 3
    world.check()


@pytest.mark.slow
@given(
    st.lists(
        st.one_of(
            st.builds(Joined, st.text()),
            st.builds(Left, st.sampled_from([key_of(name) for name in NAMES])),
            st.builds(Said, st.sampled_from([key_of(name) for name in NAMES]), messages),
            st.builds(Tick),
        ),
        max_size=30,
    )
)
def test_no_event_is_too_strange(events: list[Any]) -> None:
    study = Study()
    for event in events:
        study.instance.heard.setdefault(getattr(event, "member", ""), deque())
        study.instance.happen(event)
    assert study.instance.ledger.released == 0
