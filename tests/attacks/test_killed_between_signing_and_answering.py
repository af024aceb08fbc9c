"""Attack: have an owner commit a cohort, cut its power before it says so, and ask it for another one of that round.

What it consented to, committed or answered is on its disk before anybody hears of it, so that it keeps its word after
every crash.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.charter import keys
from cloister.charter.owner_limits import Floors
from cloister.ledger import answers
from cloister.ledger.records import cohort_digest, commit_to_be_signed, encode
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from tests.support import charters
from tests.support.members import Aggregator, declined, only, owner

ROOT = Path(__file__).parents[2]
ACT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from cloister.node.study.journal import Records
from tests.support.members import Aggregator, owner

class Dying(Records):
    def dying(self, entry):
        getattr(Records, sys.argv[2])(self, entry)
        os.kill(os.getpid(), signal.SIGKILL)

setattr(Dying, sys.argv[2], Dying.dying)
here = Aggregator.facing(owner(notes=Dying(Path(sys.argv[1]))))
if sys.argv[2] == "answer":
    here.member.handle(here.proposal(1, head=bytes(32)))
else:
    here.contribute()
    here.consent()
    here.commit()
print("it answered")
"""


def killed(folder: Path, act: str) -> Records:
    """The records of a node whose power was cut right after it wrote down that it does this."""
    done = subprocess.run(
        [sys.executable, "-c", ACT_AND_DIE, str(folder), act], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    return Records(folder)


@pytest.mark.slow
def test_it_keeps_its_word(tmp_path: Path) -> None:
    notes = killed(tmp_path, "commit")
    here = Aggregator.facing(owner(notes=notes))  # the same node, started anew
    agreed = here.ledger.charter.digest
    assert set(notes.commits(agreed)) == {1}
    # Another cohort of that round, with it and without it.
    assert "another cohort or outcome" in declined(here.ask(here.cohort(1, ("alice", "bob"))))
    assert "another cohort or outcome" in declined(here.ask(here.cohort(1, ("alice", "chuck"))))
    # The very same, for whoever has lost what it said.
    cohort = encode(here.cohort(1))
    assert notes.commits(agreed)[1].cohort == cohort_digest(cohort)
    signature = only(here.ask(here.cohort(1)), w.Commit).signature
    key = keys.public_bytes(charters.key_of("bob"))
    keys.verify(signature.signature, message=commit_to_be_signed(cohort, here.outcome), public_key=key)
    # Neither does it contribute to that round again, nor send what it no longer has, and it tells what it committed.
    assert "used once" in declined(here.member.handle(here.proposal(1)))
    assert declined(here.member.handle(w.Send(1)))
    standing = here.contribute(2).standing
    assert [each.round for each in answers.read(standing.answer, charter=here.ledger.charter).committed] == [1]
    notes.close()


@pytest.mark.slow
def test_a_consent_that_nobody_heard_of_is_spent(tmp_path: Path) -> None:
    notes = killed(tmp_path, "consent")
    assert notes.spent("#mri") == 1
    here = Aggregator.facing(owner(notes=notes, floors=Floors(rounds=1)))
    here.consent(1)  # the very same is free, until another round is answered
    assert "its owner's floors allow 1" in declined(here.member.handle(here.proposal(2)))
    notes.close()


@pytest.mark.slow
def test_an_answer_that_nobody_heard_is_an_answer(tmp_path: Path) -> None:
    """Who hears it after all may count it, so that nothing of that round or an earlier one is signed or answered."""
    notes = killed(tmp_path, "answer")
    here = Aggregator.facing(owner(notes=notes))
    again = only(here.member.handle(here.proposal(1)), w.Declined)
    assert "used once" in again.text
    assert again.standing is None
    notes.close()
