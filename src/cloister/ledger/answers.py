"""Owners' signed answers to rounds, and what they show: that a cohort was not released, and never will be.

An owner that answers a round signs nothing of an earlier one from then on, and lists every cohort that it has committed
and that may still be released. Once so many have answered later rounds without a cohort in their lists that too few are
left for a quorum, that cohort is void (docs/ledger.md, "When a cohort is void").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from cloister.charter import keys
from cloister.charter.charter import Charter
from cloister.errors import CharterError, LedgerError
from cloister.ledger.chain import Ledger, votes_to_void
from cloister.ledger.cohorts import Members
from cloister.wire.fields import Digest, Message
from cloister.wire.limits import MEMBERS
from cloister.wire.peers import fingerprint
from cloister.wire.rounds import Head, MemberSignature, RoundNumber, Sequence, SignedAnswer

ANSWER: Final = b"cloister answer signature 1\0"
"""Before SHA-256 of the encoded answer in what an owner signs."""
COHORTS: Final = 1024
"""The most cohorts that an answer lists. They fit into ``ANSWER_BYTES`` of the wire."""


class Committed(Message, frozen=True):
    """A cohort that an owner has committed."""

    round: RoundNumber
    cohort: Digest
    """SHA-256 of it, encoded."""
    model: Digest
    """The model that its round started from."""
    members: Annotated[bytes, Meta(min_length=MEMBERS // 8, max_length=MEMBERS // 8)]
    """A bit for each owner of the charter, in the order of their fingerprints: the first is the lowest bit of the last
    byte."""


class Answer(Message, frozen=True):
    """An owner's answer to a round: what it has committed, and what it has not."""

    format: Literal["cloister answer 1"]
    charter: Digest
    round: RoundNumber
    sequence: Sequence
    """The number of the newest record of a round that the owner knows; 0 before the first."""
    head: Head
    """That record's hash."""
    committed: Annotated[tuple[Committed, ...], Meta(max_length=COHORTS)]
    """The cohorts that it has committed, and that are neither in the ledger up to there nor void to it."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Answer)


def sign(answer: Answer, *, key: keys.PrivateKey) -> SignedAnswer:
    """Signs an owner's answer."""
    data, public = _encoder.encode(answer), keys.public_bytes(key)
    return SignedAnswer(data, MemberSignature(fingerprint(public), public, keys.sign(_to_be_signed(data), key=key)))


def read(signed: SignedAnswer, *, charter: Charter) -> Answer:
    """Verifies an owner's answer under a charter, and decodes it.

    Raises:
        LedgerError: it is none, or the owner has not signed it.
    """
    who, owners = signed.signature, {owner.key for owner in charter.owners}
    if who.member not in owners or fingerprint(who.public_key) != who.member:
        raise LedgerError("an answer that no owner of the charter has signed")
    try:
        keys.verify(who.signature, message=_to_be_signed(signed.answer), public_key=who.public_key)
        answer = _decoder.decode(signed.answer)
    except CharterError:
        raise LedgerError("an answer with a signature that is not its owner's") from None
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise LedgerError("the bytes are no answer of this version") from None
    if answer.charter != charter.digest:
        raise LedgerError("an answer under another charter")
    return answer


def void(cohorts: Iterable[Committed], *, answers: Iterable[SignedAnswer], ledger: Ledger) -> frozenset[bytes]:
    """The digests of those among ``cohorts``, of which the caller knows that they are what they are, that answers show
    to be void (``void_entries``)."""
    return frozenset(each.cohort for each in void_entries(cohorts, answers=answers, ledger=ledger))


def void_entries(
    cohorts: Iterable[Committed], *, answers: Iterable[SignedAnswer], ledger: Ledger
) -> frozenset[Committed]:
    """Those among ``cohorts`` that answers show to be void. Answers that show nothing are passed over.

    An answer counts if the ledger has the record that it names: only then is a cohort that it does not list, because it
    was released, known here too. It lists a cohort if the whole entry is the same.
    """
    told: dict[str, list[tuple[int, frozenset[Committed]]]] = {}
    for signed in answers:
        try:
            answer = read(signed, charter=ledger.charter)
        except LedgerError:
            continue
        if ledger.passed(answer.sequence, answer.head):
            told.setdefault(signed.signature.member, []).append((answer.round, frozenset(answer.committed)))
    needed, found = votes_to_void(ledger.charter), set[Committed]()
    for cohort in cohorts:
        against = sum(
            any(number > cohort.round and cohort not in listed for number, listed in all_of_one)
            for all_of_one in told.values()
        )
        if against >= needed and cohort.cohort not in ledger.cohorts:
            found.add(cohort)
    return frozenset(found)


def mask(members: Iterable[str], *, charter: Charter) -> bytes:
    """The bits of these owners of a charter, by their fingerprints."""
    chosen = frozenset(members)
    bits = sum(1 << at for at, owner in enumerate(_in_order(charter)) if owner in chosen)
    return bits.to_bytes(MEMBERS // 8, "big")


def unmask(bits: bytes, *, charter: Charter) -> Members:
    """The owners of a charter that these bits stand for; a bit of nobody's stands for nobody."""
    number = int.from_bytes(bits, "big")
    return frozenset(owner for at, owner in enumerate(_in_order(charter)) if number >> at & 1)


def _in_order(charter: Charter) -> list[str]:
    return sorted(owner.key for owner in charter.owners)


def _to_be_signed(answer: bytes) -> bytes:
    return ANSWER + hashlib.sha256(answer).digest()
