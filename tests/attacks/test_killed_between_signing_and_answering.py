"""Attack: have an owner sign a cohort, cut its power before it answers, and ask it to sign another one of that round.

What it signed is on its disk before anybody hears of it, so that it keeps its word after every crash.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.charter import keys
from cloister.ledger.records import cohort_to_be_signed, encode
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from tests.support import charters
from tests.support.members import Aggregator, declined, only, owner

ROOT = Path(__file__).parents[2]
SIGN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from cloister.node.study.journal import Records
from tests.support.members import Aggregator, owner

class Dying(Records):
    def sign(self, entry):
        super().sign(entry)
        os.kill(os.getpid(), signal.SIGKILL)

here = Aggregator.facing(owner(notes=Dying(Path(sys.argv[1]))))
here.contribute()
here.sign()
print("it answered")
"""


@pytest.mark.slow
def test_it_keeps_its_word(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGN_AND_DIE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    notes = Records(tmp_path)
    here = Aggregator.facing(owner(notes=notes))  # the same node, started anew
    agreed = here.ledger.charter.digest
    assert set(notes.signed(agreed)) == {1}
    # Another cohort of that round, with it and without it.
    assert "signed already" in declined(here.ask(here.cohort(1, ("alice", "bob"))))
    assert "signed already" in declined(here.ask(here.cohort(1, ("alice", "chuck"))))
    # The very same, for whoever has lost the answer.
    cohort = encode(here.cohort(1))
    assert notes.signed(agreed)[1].cohort == cohort
    signature = only(here.ask(here.cohort(1)), w.Signature)
    key = keys.public_bytes(charters.key_of("bob"))
    keys.verify(signature.signature, message=cohort_to_be_signed(cohort), public_key=key)
    # Neither does it contribute to that round again, nor answer for a contribution that it no longer has.
    assert "used once" in declined(here.member.handle(here.proposal(1)))
    assert declined(here.member.handle(w.Send(1)))
    notes.close()
