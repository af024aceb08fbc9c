"""The verdict: whether evidence is acceptable, of what, and what that does not prove. For people and for machines.

A ``Verdict`` is a value. ``cloister.attest.text`` writes it out for a person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from cloister.attest.caveats import caveats
from cloister.attest.claims import Claims
from cloister.attest.facts import MAKERS, Facts, facts
from cloister.attest.reference import MEASURED, Entry
from cloister.attest.transcript import Transcript
from cloister.errors import (
    CharterError,
    CloisterError,
    EvidenceError,
    NoTeeError,
    NotGenuineError,
    UnacceptableError,
)
from cloister.wire.text import visible

_SHORT: Final = 12
_LISTED: Final = 3


class Outcome(StrEnum):
    """How it ended."""

    ACCEPTABLE = "acceptable"
    GENUINE = "genuine"
    """A genuine TEE made it; whether that is wanted was not asked."""
    UNVERIFIED = "unverified"
    """Read, and nothing checked."""
    UNACCEPTABLE = "not acceptable"
    NOT_GENUINE = "not genuine"
    UNREADABLE = "no evidence"
    UNDECIDED = "undecided"
    """Collateral is missing or out of date, or the other end could not be asked."""


_OUTCOMES: Final[tuple[tuple[type[CloisterError], Outcome], ...]] = (
    (UnacceptableError, Outcome.UNACCEPTABLE),
    (CharterError, Outcome.UNACCEPTABLE),  # of the other end: it runs under another charter
    (NotGenuineError, Outcome.NOT_GENUINE),
    (EvidenceError, Outcome.UNREADABLE),
    (NoTeeError, Outcome.UNREADABLE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One organisation of a charter."""

    name: str
    role: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A charter, as far as a reader of the verdict needs it: plain texts, since charters are not known here."""

    name: str
    serial: int
    digest: bytes
    floor: int
    members: tuple[Member, ...]
    limits: Mapping[str, str]
    """What may leave, a phrase for each limit."""
    warnings: tuple[str, ...]
    """What the charter gives up, a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How evidence was judged. What is not known is None: a refusal often comes before there are facts."""

    outcome: Outcome
    checked_at: datetime
    """By the verifier's clock."""
    address: str | None = None
    failures: tuple[str, ...] = ()
    """Every check that failed, a sentence each."""
    facts: Facts | None = None
    entry: Entry | None = None
    rules: Rules | None = None
    transcript: Transcript | None = None
    took: timedelta | None = None
    """From making the nonce to having the proof: the evidence is no older."""

    @classmethod
    def accepted(
        cls,
        claims: Claims,
        *,
        entry: Entry,
        checked_at: datetime,
        rules: Rules | None = None,
        transcript: Transcript | None = None,
        address: str | None = None,
        took: timedelta | None = None,
    ) -> Verdict:
        """Of evidence that a reference accepts."""
        return cls(
            outcome=Outcome.ACCEPTABLE,
            checked_at=checked_at,
            address=address,
            facts=facts(claims),
            entry=entry,
            rules=rules,
            transcript=transcript,
            took=took,
        )

    @classmethod
    def refused(
        cls,
        fault: CloisterError,
        *,
        checked_at: datetime,
        rules: Rules | None = None,
        address: str | None = None,
        facts: Facts | None = None,
    ) -> Verdict:
        """Of evidence that was refused with ``fault``, or that could not be had because of it."""
        outcome = next((outcome for kind, outcome in _OUTCOMES if isinstance(fault, kind)), Outcome.UNDECIDED)
        failures = fault.failures if isinstance(fault, UnacceptableError) else (str(fault),)
        return cls(outcome=outcome, checked_at=checked_at, address=address, failures=failures, rules=rules, facts=facts)

    @property
    def does_not_prove(self) -> tuple[str, ...]:
        """The assumptions that are left, a sentence each."""
        return tuple(
            caveats(
                self.facts,
                entry=self.entry,
                charter=self.rules is not None,
                asked=self.transcript is not None,
                now=self.checked_at,
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """The verdict for machines. Every key is always there; docs/attestation.md tells what each holds."""
        found, entry = self.facts, self.entry
        return {
            "format": "cloister verdict 1",
            "verdict": str(self.outcome),
            "checked_at": self.checked_at.isoformat(),
            "address": self.address,
            "failures": list(self.failures),
            "tee": None if found is None else found.tee,
            "entry": None if entry is None else entry.name,
            "software": None if found is None else dict(found.software),
            "tcb": None if found is None else dict(found.tcb),
            "platform": None if found is None else dict(found.platform),
            "report_data": None if found is None else found.report_data.hex(),
            "charter": None if self.rules is None else _charter(self.rules),
            "instance": None if self.transcript is None else _instance(self.transcript),
            "keys": None if self.transcript is None else _keys(self.transcript),
            "freshness": self._freshness(),
            "notes": [] if found is None else list(found.notes),
            "does_not_prove": list(self.does_not_prove),
        }

    def line(self) -> str:
        """The verdict in one line, for a log."""
        return plain(", ".join(self._parts()))

    def _parts(self) -> Iterator[str]:
        if self.failures:
            listed = "; ".join(self.failures[:_LISTED])
            more = len(self.failures) - _LISTED
            yield f"refused ({self.outcome}): {listed}" + (f"; and {more} more" if more > 0 else "")
        else:
            yield ("verified: " if self.outcome is Outcome.ACCEPTABLE else f"{self.outcome}: ") + self._tee()
        if self.facts is not None:
            name = f'"{self.entry.name}" ' if self.entry is not None else ""
            yield f"software {name}{self.facts.software[MEASURED[self.facts.tee][0]]!s:.{_SHORT}}..."
        if self.rules is not None:
            yield f"charter {self.rules.name} #{self.rules.serial} {self.rules.digest.hex():.{_SHORT}}..."
            yield f"{len(self.rules.members)} members"
            yield f"floor {self.rules.floor}"

    def _tee(self) -> str:
        if self.facts is None:
            return "evidence"
        status = self.facts.tcb.get("status")
        return MAKERS[self.facts.tee] + (f" {status}" if status else "")

    def _freshness(self) -> dict[str, Any]:
        issued = None if self.facts is None else self.facts.collateral_issued
        expires = None if self.facts is None else self.facts.collateral_expires
        return {
            "nonce": None if self.transcript is None else self.transcript.nonce.hex(),
            "evidence_age_s": None if self.took is None else self.took.total_seconds(),
            "collateral_issued": None if issued is None else issued.isoformat(),
            "collateral_expires": None if expires is None else expires.isoformat(),
            "collateral_age_s": None if issued is None else (self.checked_at - issued).total_seconds(),
        }


def plain(text: str) -> str:
    """Text from outside, fit for a terminal: what cannot be printed (escape sequences, say) is spelled out."""
    return visible(text)


def _charter(rules: Rules) -> dict[str, Any]:
    return {
        "name": rules.name,
        "serial": rules.serial,
        "digest": rules.digest.hex(),
        "floor": rules.floor,
        "limits": dict(rules.limits),
        "members": [{"name": member.name, "role": member.role, "key": member.key} for member in rules.members],
        "gives_up": list(rules.warnings),
    }


def _instance(transcript: Transcript) -> dict[str, Any]:
    return {
        "role": transcript.role,
        "name": transcript.name,
        "id": transcript.instance.hex(),
        "configuration": None if transcript.configuration is None else transcript.configuration.hex(),
        "ledger_sequence": transcript.ledger_sequence,
        "ledger_head": transcript.ledger_head.hex() or None,
    }


def _keys(transcript: Transcript) -> dict[str, str | None]:
    return {
        "tls": f"sha256:{transcript.server.hex()}",
        "hpke": None if transcript.hpke_key is None else f"sha256:{hashlib.sha256(transcript.hpke_key).hexdigest()}",
        "signing": f"sha256:{hashlib.sha256(transcript.signing_key).hexdigest()}",
        "own": None if transcript.client is None else f"sha256:{transcript.client.hex()}",
    }
