"""Whoever calls an owner's key lost wants that owner's place: cohorts are compared by ids, so with chuck's id under a
key of its own it takes part in the same cohorts again, and the difference of two means is chuck's update.

A quorum can replace a key, and an owner whose key is not lost has time to object: by saying so, or by going on.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cloister.charter import Charter
from cloister.charter.signatures import encode
from cloister.charter.succession import FORMAT, hand_over
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.ledger.chain import Ledger
from cloister.node.config import CharterUse
from cloister.node.setup import load_charter
from cloister.node.study.journal import Records
from tests.support import chains, charters
from tests.support.charters import NOW, fingerprint_of, key_of, signatures

FOUR = ("bob", "alice", "chuck", "dora")
DAYS = 30
WAITED = timedelta(days=DAYS, seconds=1)


def text(**changed: object) -> str:
    given = {
        "owners": FOUR,
        "lost_key_days": str(DAYS),
        "jobs": [charters.agreed_job(chains.PLAN, rounds=100)],
        "first_model": f'"{chains.START.hex()}"',
        **changed,
    }
    return charters.text(**given)  # type: ignore[arg-type]


FIRST = text()
OLD = parse_charter(FIRST)


def replaced(by: str = "mallory", **changed: object) -> str:
    """The next charter, in which chuck's place has another key."""
    line = f'key = "{fingerprint_of("chuck")}"\n'
    given = text(**{"serial": 2, "supersedes": OLD.digest} | changed)
    return given.replace(line, f'key = "{fingerprint_of(by)}"\nid = "{fingerprint_of("chuck")}"\n')


SECOND = replaced()
SIGNERS = ("bob", "alice", "dora", "mallory")


class Node:
    """Bob's node, which works under serial 1. Whoever attacks it writes charter and signatures, not its memory."""

    def __init__(self, folder: Path, first: str = FIRST) -> None:
        self.use = CharterUse(
            file=folder / "charter.toml",
            signatures=folder / "charter.sigs",
            state=folder / "state",
            accept_simulated=True,
            collateral=None,
            floors=None,
        )
        self.state = folder / "state"
        self.use.signatures.mkdir()
        self.ledger = Ledger(parse_charter(first))
        self.start(first)

    def start(self, written: str, signers: Iterable[str] = (), *, now: datetime = NOW, note: bool = True) -> Charter:
        agreed = parse_charter(written)
        self.use.file.write_text(written)
        for file in self.use.signatures.glob("*.sig"):
            file.unlink()
        for number, signature in enumerate(signatures(agreed, *signers)):
            (self.use.signatures / f"{number}.sig").write_text(encode(signature))
        return load_charter(self.use, own=fingerprint_of("bob"), now=now, remember=note)

    def hears_of_rounds(self, *names: str) -> None:
        """A round under serial 1 that these owners consented to and committed."""
        before = self.ledger.sequence
        chains.extend(self.ledger, 1, names=names, instance=f"number {before}")
        new = [(0 if at == before else self.ledger.last_round, each) for at, each in enumerate(self.ledger.records)]
        with closing(Records(self.state)) as records:
            records.release(self.ledger.charter.digest, new[before:])

    def waits(self, written: str = SECOND, signers: Iterable[str] = SIGNERS, **given: datetime) -> str:
        with pytest.raises(CharterError) as refused:
            self.start(written, signers, **given)
        return str(refused.value)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_nobody_takes_a_place_before_the_wait_is_over(node: Node) -> None:
    assert "waits 30 days from now on" in node.waits()
    assert "waits 30 days, until 2026-07-01 12:00 UTC" in node.waits(now=NOW + WAITED - timedelta(seconds=2))
    assert node.start(FIRST).serial == 1  # the study goes on meanwhile
    assert node.start(SECOND, SIGNERS, now=NOW + WAITED).serial == 2
    assert node.start(SECOND, SIGNERS, now=NOW).serial == 2  # accepted is accepted


def test_the_wait_is_by_what_this_node_has_seen_and_not_by_what_anybody_writes(node: Node) -> None:
    """A charter may say that it holds since January, and signatures have no times at all."""
    older = SECOND.replace("not_before = 2026-01-01", "not_before = 2025-01-01")
    assert "from now on" in node.waits(older)
    assert "from now on" in node.waits(SECOND, now=NOW + WAITED)  # the wait for another successor is no wait for this
    assert "from now on" in node.waits(older, now=NOW + WAITED)


def test_the_wait_begins_with_what_is_complete(node: Node) -> None:
    """Nobody starts the time in secret, with a file that the others have not signed."""
    assert "is not signed by dora" in node.waits(signers=("bob", "alice", "mallory"))
    assert "from now on" in node.waits(now=NOW + WAITED)


def test_looking_begins_no_wait(node: Node) -> None:
    with pytest.raises(CharterError, match="`cloister node note` does that"):
        node.start(SECOND, SIGNERS, note=False)
    assert "from now on" in node.waits(now=NOW + WAITED)


def test_a_minority_replaces_nobody(node: Node) -> None:
    """Bob and a liar, as whom they like: two of four owners are no quorum."""
    taken = SECOND
    for name in ("alice", "dora"):
        line = f'key = "{fingerprint_of(name)}"\n'
        taken = taken.replace(line, f'key = "{fingerprint_of(f"as {name}")}"\nid = "{fingerprint_of(name)}"\n')
    for now in (NOW, NOW + WAITED):
        assert "a quorum has to sign, 3 of the 4" in node.waits(
            taken, ("bob", "as alice", "as dora", "mallory"), now=now
        )


def test_what_the_new_charter_says_of_waiting_counts_for_nothing(tmp_path: Path) -> None:
    first = text(lost_key_days="0")
    node = Node(tmp_path, first)
    hasty = replaced(lost_key_days="1").replace(OLD.digest.hex(), parse_charter(first).digest.hex())
    for now in (NOW, NOW + WAITED):
        assert "names no lost_key_days" in node.waits(hasty, now=now)


def test_an_older_charter_with_a_shorter_wait_does_not_come_back(node: Node) -> None:
    second = text(serial=2, supersedes=OLD.digest, rounds="200")
    node.start(second)
    assert "supersedes another charter" in node.waits(
        replaced(serial=3), now=NOW
    )  # the one that was accepted last is what counts
    assert "is older than serial 2" in node.waits(FIRST, FOUR)


def test_an_owner_that_goes_on_objects(node: Node) -> None:
    """Chuck knows of nothing, and its node takes part in a round: its key is not lost."""
    node.hears_of_rounds(*FOUR)
    assert "from now on" in node.waits()
    node.hears_of_rounds("bob", "alice", "dora")
    assert "until 2026-07-01" in node.waits(now=NOW + timedelta(days=20))
    node.hears_of_rounds(*FOUR)
    late = NOW + WAITED
    assert "the key of chuck, which is said to be lost, has signed since: it waits 30 days anew" in node.waits(now=late)
    assert "until 2026-07-31" in node.waits(now=late + WAITED - timedelta(seconds=2))
    node.hears_of_rounds(*FOUR)
    assert "anew" in node.waits(now=late + WAITED)  # as long as it goes on
    assert node.start(SECOND, SIGNERS, now=late + 2 * WAITED).serial == 2  # and no longer


def test_a_lost_memory_of_the_wait_begins_it_anew(node: Node) -> None:
    node.waits()
    seen = node.state / "stroke-study.seen"
    for damaged in ("", "x", seen.read_text().replace("+00:00", ""), "\n" * 1000):
        seen.write_text(damaged)
        assert "from now on" in node.waits(now=NOW + WAITED)


def test_the_owner_itself_needs_nobodys_patience(node: Node) -> None:
    """With the key that it had it hands its place to the next, at once; the others' signatures do not."""
    chosen = replaced("chuck, later")
    handed = hand_over(OLD, new=parse_charter(chosen), key=key_of("chuck"))
    forged = hand_over(OLD, new=parse_charter(SECOND), key=key_of("chuck"))
    file = node.use.signatures / "chuck.handover"
    file.write_text(encode(forged, form=FORMAT))
    signers = ("bob", "alice", "dora", "chuck, later")
    assert "chuck's hand-over is to another charter" in node.waits(chosen, signers)
    file.write_text(encode(handed, form=FORMAT))
    assert node.start(chosen, signers).serial == 2
