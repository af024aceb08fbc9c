"""Attack: run the aggregator under another charter than the members agreed on: an older one, or one of the operator's.

The charter is in the transcript, and the client names the one it means in its challenge. An honest aggregator says that
it has another; one that pretends is refused.
"""

from __future__ import annotations

from typing import Any

import pytest

from cloister.charter import Charter
from cloister.errors import CharterError, UnacceptableError
from cloister.net.attested import attest_peer
from tests.support.attested import ADDRESS, Study, answering, claiming, overheard, rewriting

ANOTHER = "it is bound to another charter"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def successor(study: Study) -> Charter:
    return study.agree(serial=2, supersedes=study.charter.digest)


@pytest.fixture(scope="module")
def lax(study: Study) -> Charter:
    """The operator's: the same members and software, and a name, with another rule."""
    return study.agree(interactive=False)


def told(study: Study, own: Charter, others: Charter) -> None:
    """A member with the charter ``own`` and an aggregator under ``others``."""
    options: Any = {"policy": study.policy(charter=own), "identity": study.bob}
    with study.aggregator(study.instance(charter=others.digest)) as running:
        overheard(running.at, others)  # whoever means that charter is content
        with pytest.raises(CharterError, match=f"another charter: {others.digest.hex()}"):
            attest_peer(ADDRESS, at=running.at, **options)
    lying = study.instance(charter=others.digest)
    with answering(lying, claiming(lying)) as at, pytest.raises(UnacceptableError) as caught:
        attest_peer(ADDRESS, at=at, **options)
    assert caught.value.failures == (ANOTHER,)


def test_an_aggregator_under_an_older_charter(study: Study, successor: Charter) -> None:
    told(study, own=successor, others=study.charter)


def test_a_member_with_an_older_charter(study: Study, successor: Charter) -> None:
    """It has to be told too: the others have agreed on something that it does not know."""
    told(study, own=study.charter, others=successor)


def test_an_aggregator_under_a_charter_of_its_operators(study: Study, lax: Charter) -> None:
    told(study, own=study.charter, others=lax)


def test_a_transcript_that_only_says_so(study: Study, lax: Charter) -> None:
    """The evidence was made under the lax charter, and the transcript beside it names the strict one."""
    lying = study.instance(charter=lax.digest)
    rewritten = rewriting(lying, charter=study.charter.digest)
    with answering(lying, rewritten) as at, pytest.raises(UnacceptableError, match="replayed, relayed or not bound"):
        study.attest(at)
