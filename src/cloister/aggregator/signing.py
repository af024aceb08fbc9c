"""The two times that a round's owners sign: members consent to a draft, and a quorum commits what all consented to."""

from __future__ import annotations

from collections.abc import Iterable

from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.releasing import Outcome
from cloister.charter import keys
from cloister.errors import CharterError, RoundError
from cloister.ledger.chain import Ledger, quorum
from cloister.ledger.records import Cohort, cohort_digest, commit_to_be_signed, consent_to_be_signed, encode
from cloister.wire.peers import fingerprint
from cloister.wire.rounds import MemberSignature


class Drafted:
    """A cohort that its members are asked to consent to, by ``until``."""

    def __init__(self, cohort: Cohort, *, until: float) -> None:
        self.cohort = encode(cohort)
        self.digest = cohort_digest(self.cohort)
        self.until = until
        self.members = frozenset(share.member for share in cohort.shares)
        self._message = consent_to_be_signed(self.cohort)
        self._consents: dict[str, MemberSignature] = {}

    @property
    def missing(self) -> frozenset[str]:
        """The members that have not consented yet, by their fingerprints."""
        return self.members - self._consents.keys()

    @property
    def consents(self) -> tuple[MemberSignature, ...]:
        """Those that are here, in the order of the fingerprints."""
        return _in_order(self._consents)

    def take(self, peer: ConnectedMember, signature: MemberSignature) -> None:
        """Takes a member's consent.

        Raises:
            RoundError: it is not a member's, came already, or is not valid.
        """
        if peer.key not in self.missing:
            raise RoundError("a consent that was not asked for, or that came already")
        _check(signature, signer=peer.key, message=self._message)
        self._consents[peer.key] = signature


class Committing:
    """The last phase of a round: owners commit the cohort, and its outcome. No clock ends it (docs/ledger.md); but
    nobody waits for ever for owners that are there and silent, while others could go on."""

    def __init__(self, number: int, *, drafted: Drafted, outcome: Outcome, ledger: Ledger) -> None:
        self.number = number
        self.head = ledger.head
        """The ledger's, which the round goes on from."""
        self.drafted = drafted
        self.outcome = outcome
        self.refused: set[str] = set()
        """The owners that will never commit it."""
        self._owners = {owner.key for owner in ledger.charter.owners}
        self._quorum = quorum(ledger.charter)
        self._message = commit_to_be_signed(drafted.cohort, outcome.digest)
        self._asked: dict[ConnectedMember, float] = {}
        """Until when each is waited for."""
        self._commits: dict[str, MemberSignature] = {}

    @property
    def complete(self) -> bool:
        """Whether the round may be released."""
        return len(self._commits) >= self._quorum

    @property
    def commits(self) -> tuple[MemberSignature, ...]:
        """Those that are here, in the order of the fingerprints."""
        return _in_order(self._commits)

    def to_ask(self, present: Iterable[ConnectedMember], *, until: float) -> list[ConnectedMember]:
        """The owners to ask now: each once on a connection. They count as asked, and are waited for until then; one
        that has answered a later round refuses."""
        there = list(present)
        new = [peer for peer in there if peer not in self._asked and peer.key not in self._commits]
        known = {peer: self._asked[peer] for peer in there if peer in self._asked}  # of nobody who has left
        self._asked = known | dict.fromkeys(new, until)
        self.refused |= {peer.key for peer in new if peer.answered > self.number}
        return [peer for peer in new if peer.key not in self.refused]

    def due(self, *, now: float) -> float | None:
        """The moment after which one more owner counts as silent."""
        return min((until for until in self._asked.values() if until > now), default=None)

    def take(self, peer: ConnectedMember, signature: MemberSignature) -> None:
        """Takes an owner's commit.

        Raises:
            RoundError: it came already, or is not valid. The owner counts as one that refuses then.
        """
        if peer.key in self._commits or peer.key in self.refused:
            raise RoundError("a commit that came already, or of an owner that has refused")
        try:
            _check(signature, signer=peer.key, message=self._message)
        except RoundError:
            self.refused.add(peer.key)
            raise
        self._commits[peer.key] = signature

    def has(self, key: str) -> bool:
        """Whether an owner has committed it."""
        return key in self._commits

    def missing(self, present: Iterable[ConnectedMember]) -> frozenset[str]:
        """The owners that are there and may still commit it."""
        return frozenset(peer.key for peer in present) - self.refused - self._commits.keys()

    def more_than(self, other: Committing | None) -> bool:
        """Whether it has at least as many commits as another round."""
        return other is None or other.head != self.head or len(self._commits) >= len(other._commits)

    def within_reach(self, present: Iterable[ConnectedMember]) -> bool:
        """Whether owners that were not asked on this connection, and may still commit it, would make up a quorum."""
        there = [peer for peer in present if peer.answered <= self.number and peer.key not in self.refused]
        new = [peer for peer in there if peer not in self._asked and peer.key not in self._commits]
        return bool(new) and len(self._commits) + len(new) >= self._quorum

    def short_of(self, present: Iterable[ConnectedMember]) -> int:
        """The number of owners that have to come, beside those that are there and may still commit it."""
        return max(0, self._quorum - len(self._commits) - len(self.missing(present)))

    def hopeless(self, present: Iterable[ConnectedMember], *, now: float) -> bool:
        """Whether nobody should wait for it any more: too many have refused; or those that are there, and not silent,
        are enough for another round, and too few of them can still commit this one."""
        answering = {peer.key for peer in present if self._answers(peer, now)}
        could = self._commits.keys() | (answering - self.refused)
        too_many = len(self._owners) - len(self.refused) < self._quorum
        return too_many or (len(answering) >= self._quorum > len(could))

    def _answers(self, peer: ConnectedMember, now: float) -> bool:
        """Whether an owner has answered, or still has time to."""
        return peer.key in self._commits or peer.key in self.refused or self._asked.get(peer, now) > now


def _check(signature: MemberSignature, *, signer: str, message: bytes) -> None:
    if signature.member != signer or fingerprint(signature.public_key) != signer:
        raise RoundError("the signature comes with another's public key")
    try:
        keys.verify(signature.signature, message=message, public_key=signature.public_key)
    except CharterError as fault:
        raise RoundError(str(fault)) from None


def _in_order(signatures: dict[str, MemberSignature]) -> tuple[MemberSignature, ...]:
    return tuple(signatures[each] for each in sorted(signatures))
