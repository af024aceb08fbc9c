"""Genuine chains to test with: real keys, real signatures, and the evidence of simulated instances."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.evidence import encode
from cloister.attest.transcript import Transcript
from cloister.charter import Charter, keys
from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.ledger.job import round_digest
from cloister.ledger.noise import noise_of
from cloister.ledger.records import Cohort, InstanceRecord, RoundRecord, Share
from cloister.wire.peers import fingerprint
from cloister.wire.rounds import MemberSignature
from tests.support import charters

MEASUREMENT: Final = bytes.fromhex("5a" * 48)
"""What ``charters.SIMULATED`` accepts."""
START: Final = hashlib.sha256(b"the first model").digest()
JOB: Final = hashlib.sha256(b"the job").digest()
PLAN: Final = hashlib.sha256(b"the plan").digest()
TIME_MS: Final = int(charters.NOW.timestamp() * 1000)
LOSS: Final = '[[limits.metrics]]\nname = "loss"\nlow = 0.0\nhigh = 10.0\n'


def charter(**changed: Any) -> Charter:
    """A charter of bob, alice and chuck (or ``owners``) that allows studies, and names one metric, the loss."""
    given: dict[str, Any] = {
        "jobs": [charters.agreed_job(PLAN, rounds=100)],
        "first_model": f'"{START.hex()}"',
        "limits": LOSS,
    }
    return charters.charter(**given | changed)


def digest(*parts: object) -> bytes:
    """32 bytes that stand for something: always the same for the same ``parts``."""
    return hashlib.sha256(repr(parts).encode()).digest()


@dataclass
class Instance:
    """An aggregator's instance, as far as a ledger knows of it: its key and its attester."""

    name: str = "first"
    attester: SimulatedAttester = field(
        default_factory=lambda: SimulatedAttester(measurement=MEASUREMENT, platform=bytes(32))
    )

    @property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(digest("key", self.name))

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def transcript(self, ledger: Ledger, **changed: Any) -> Transcript:
        """What it proves at the ledger's end."""
        given: dict[str, Any] = {
            "role": "aggregator",
            "tee": "simulated",
            "nonce": records.nonce_of(ledger.head),
            "hpke_key": bytes(1216),
            "signing_key": self.public,
            "charter": ledger.charter.digest,
            "instance": digest("instance", self.name)[:16],
            "name": "agg.example:7443",
            "server": digest("certificate", self.name),
            "client": None,
            "ledger_head": ledger.head,
            "ledger_sequence": ledger.sequence,
            "configuration": None,
        }
        return Transcript(**given | changed)

    def begin(self, ledger: Ledger, *, transcript: Transcript | None = None, **changed: Any) -> bytes:
        """Its first record, for the ledger's end. ``changed``: fields of the record, which it signs as they are."""
        proved = transcript or self.transcript(ledger)
        given: dict[str, Any] = {
            "charter": ledger.charter.digest,
            "sequence": ledger.sequence + 1,
            "previous": ledger.head,
            "transcript": proved.encode(),
            "evidence": encode(self.attester.evidence(proved.report_data())),
            "collateral": None,
            "time": TIME_MS,
            "signature": b"",
        }
        return self.sign(InstanceRecord(**given | changed))

    def sign(self, record: records.Record) -> bytes:
        """The record with its signature, encoded."""
        signature = self.key.sign(records.to_be_signed(record))
        return records.encode(msgspec.structs.replace(record, signature=signature))


def share_list(ledger: Ledger, names: Sequence[str], weights: Mapping[str, float] | None = None) -> tuple[Share, ...]:
    """Shares of these members in order, of one weight where ``weights`` says no other."""
    given = weights or dict.fromkeys(names, 1 / len(names))
    shares = (
        Share(
            charters.fingerprint_of(name), given[name], digest("commitment", ledger.head, ledger.last_round + 1, name)
        )
        for name in names
    )
    return tuple(sorted(shares, key=lambda share: share.member))


def cohort(ledger: Ledger, names: Sequence[str], *, signer: bytes, **changed: Any) -> Cohort:
    """What members would sign next. ``changed``: its fields; the round's digest follows them."""
    agreed = ledger.charter.job(changed.get("name", "train"))
    given: dict[str, Any] = {
        "format": "cloister cohort 4",
        "charter": ledger.charter.digest,
        "sequence": ledger.sequence + 1,
        "previous": ledger.head,
        "signer": signer,
        "round": ledger.last_round + 1,
        "job": JOB,
        "name": "train",
        "digest": b"",
        "model": ledger.model,
        "shares": share_list(ledger, names),
        "noise": None if agreed is None else noise_of(ledger.charter.limits, agreed),
    } | changed
    given["digest"] = given["digest"] or round_digest(
        given["job"],
        charter=given["charter"],
        number=given["round"],
        model=given["model"],
        head=given["previous"],
    )
    return Cohort(**given)


def release(ledger: Ledger) -> dict[str, Any]:
    """What the next round releases: the fields of its record that the cohort's outcome is about."""
    return {
        "salt": digest("salt", ledger.head),
        "model": digest("model", ledger.head),
        "state": None,
        "metrics": {"loss": 0.5} if ledger.charter.limits.metrics else {},
    }


def outcome(ledger: Ledger, **changed: Any) -> bytes:
    released = release(ledger) | changed
    return records.outcome_digest(released.pop("salt"), **released)


def sign_all(message: bytes, names: Iterable[str]) -> tuple[MemberSignature, ...]:
    """The signatures of a message by these members, in order."""
    signatures = (sign_one(message, charters.key_of(name)) for name in names)
    return tuple(sorted(signatures, key=lambda signature: signature.member))


def sign_one(message: bytes, key: keys.PrivateKey) -> MemberSignature:
    """The signature of a message by whoever has this key."""
    public = keys.public_bytes(key)
    return MemberSignature(fingerprint(public), public, keys.sign(message, key=key))


def consents(encoded: bytes, names: Iterable[str]) -> tuple[MemberSignature, ...]:
    """The consents of these members to an encoded cohort, in order."""
    return sign_all(records.consent_to_be_signed(encoded), names)


def commits(encoded: bytes, outcome: bytes, names: Iterable[str]) -> tuple[MemberSignature, ...]:
    """The commits of an encoded cohort and an outcome by these members, in order."""
    return sign_all(records.commit_to_be_signed(encoded, outcome), names)


def round_record(
    ledger: Ledger,
    names: Sequence[str] = ("bob", "alice"),
    *,
    instance: Instance,
    witnesses: Sequence[str] = (),
    agreed: Cohort | None = None,
    **changed: Any,
) -> bytes:
    """The record of the next round: ``names`` contribute, consent and commit, ``witnesses`` commit. ``changed``: its
    fields."""
    encoded = records.encode(agreed or cohort(ledger, names, signer=instance.public))
    given: dict[str, Any] = {
        "cohort": encoded,
        **release(ledger),
        "consents": consents(encoded, names),
        "time": TIME_MS,
        "signature": b"",
    } | changed
    outcome = records.outcome_digest(
        given["salt"], model=given["model"], state=given["state"], metrics=given["metrics"]
    )
    given = {"commits": commits(encoded, outcome, [*names, *witnesses]), **given}
    return instance.sign(RoundRecord(**given))


def chain(
    rounds: int = 2, *, agreed: Charter | None = None, names: Sequence[str] = ("bob", "alice"), instance: str = "first"
) -> Ledger:
    """A ledger of one instance and ``rounds`` rounds."""
    ledger = Ledger(agreed or charter())
    extend(ledger, rounds, names=names, instance=instance)
    return ledger


def extend(ledger: Ledger, rounds: int, *, names: Sequence[str] = ("bob", "alice"), instance: str = "second") -> None:
    """Appends an instance and ``rounds`` rounds of it."""
    runs = Instance(instance)
    ledger.append(runs.begin(ledger))
    for _ in range(rounds):
        ledger.append(round_record(ledger, names, instance=runs))
