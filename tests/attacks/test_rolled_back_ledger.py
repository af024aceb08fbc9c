"""Attack: restart the aggregator with an older ledger, or with another history of the same length.

Whoever has seen a newer record remembers its number and hash, and asks for a ledger that goes on from there.
"""

from __future__ import annotations

import pytest

from cloister.errors import UnacceptableError
from tests.support.attested import Study

ROLLED_BACK = "its ledger does not go on from the newest record that was seen: it was rolled back or forked"
SEEN = (7, b"\x07" * 32)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "sequence"),
    [(b"", 0), (b"\x01" * 32, 1), (b"\x06" * 32, 6), (b"\x07" * 32, 6), (b"\x66" * 32, 7)],
    ids=["empty", "the first record", "the last but one", "an old number with the new hash", "a fork"],
)
def test_an_older_or_another_ledger_is_refused(study: Study, head: bytes, sequence: int) -> None:
    with study.aggregator(study.instance(ledger=lambda: (head, sequence))) as running:
        study.attest(running.at).close()  # to whoever has seen nothing it is as good as any
        with pytest.raises(UnacceptableError) as caught:
            study.attest(running.at, newest=SEEN)
    assert caught.value.failures == (ROLLED_BACK,)


@pytest.mark.parametrize(("head", "sequence"), [(b"\x07" * 32, 7), (b"\x08" * 32, 8)])
def test_the_ledger_that_was_seen_and_what_follows_are_accepted(study: Study, head: bytes, sequence: int) -> None:
    own = study.instance(ledger=lambda: (head, sequence))
    with study.aggregator(own) as running, study.attest(running.at, newest=SEEN) as attested:
        assert (attested.transcript.ledger_sequence, attested.transcript.ledger_head) == (sequence, head)


def test_what_was_seen_on_this_connection_counts(study: Study) -> None:
    """Nobody has to be told: each proof raises what the next one has to reach."""
    now = [(b"\x02" * 32, 2)]
    with study.aggregator(study.instance(ledger=lambda: now[0])) as running, study.attest(running.at) as attested:
        now[0] = (b"\x03" * 32, 3)
        later = attested.attest()
        now[0] = (b"\x02" * 32, 2)
        with pytest.raises(UnacceptableError) as caught:
            later.attest()
    assert caught.value.failures == (ROLLED_BACK,)
