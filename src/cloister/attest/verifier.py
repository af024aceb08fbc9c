"""Whether evidence is acceptable: authenticate it, hold it against the reference, and compare what it was made for.

Pure: evidence, collateral, clock and reference come in; claims and the entry that matched come out, or a refusal that
lists every check that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hmac import compare_digest
from typing import Final

from cloister.attest import simulated
from cloister.attest.appraisal import appraise
from cloister.attest.claims import Claims
from cloister.attest.dcap import verify as dcap
from cloister.attest.dcap.collateral import Collateral, DcapCollateral, SnpCollateral
from cloister.attest.evidence import REPORT_DATA_BYTES, Evidence
from cloister.attest.reference import Entry, Reference
from cloister.attest.snp import verify as snp
from cloister.errors import CollateralError, NotGenuineError, UnacceptableError

STALE: Final = "its evidence was made for another connection or at another time: it is replayed, relayed or not bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Who may vouch for TEEs: Intel's root certificate (DER; None is the one that dcap-qvl holds), and for each AMD
    product the SHA-256 of its root key's SubjectPublicKeyInfo."""

    dcap: bytes | None
    snp: Mapping[str, bytes]


MAKERS: Final = Roots(dcap=None, snp=snp.ARK_SPKI)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Acceptable evidence: what it claims, and the entry of the reference that accepts it."""

    claims: Claims
    entry: Entry


def authenticate(
    evidence: Evidence, *, collateral: Collateral | None, now: datetime, unsafe_roots: Roots = MAKERS
) -> Claims:
    """What genuine evidence claims. ``unsafe_roots`` is for evidence of one's own making, in tests.

    Raises:
        EvidenceError: it cannot be read. NotGenuineError: no genuine TEE made it.
        CollateralError: the collateral is missing, of another kind, or not valid at ``now``.
        UnacceptableError: genuine, and of a kind that no reference can accept (a debug enclave, for instance).
    """
    if evidence.tee != "snp" and evidence.endorsements:
        raise NotGenuineError(f"{evidence.tee} evidence brings no certificates along")
    match evidence.tee:
        case "sgx" | "tdx":
            if not isinstance(collateral, DcapCollateral):
                raise CollateralError(f"{evidence.tee} evidence is judged by DCAP collateral: name a file or a URL")
            claims = dcap.authenticate(evidence.quote, collateral=collateral, now=now, root=unsafe_roots.dcap)
            if claims.tee != evidence.tee:
                raise NotGenuineError(f"a quote of {claims.tee} was called evidence of {evidence.tee}")
            return claims
        case "snp":
            if isinstance(collateral, DcapCollateral):
                raise CollateralError("SEV-SNP evidence is judged by what AMD publishes, not by DCAP collateral")
            return snp.authenticate(
                evidence.quote,
                endorsements=evidence.endorsements,
                collateral=collateral if isinstance(collateral, SnpCollateral) else None,
                now=now,
                roots=unsafe_roots.snp,
            )
        case "simulated":
            return simulated.authenticate(evidence.quote)


def verify(
    evidence: Evidence,
    *,
    reference: Reference,
    collateral: Collateral | None,
    now: datetime,
    report_data: bytes,
    unsafe_roots: Roots = MAKERS,
) -> Verified:
    """Acceptable evidence of what ``reference`` names, made for ``report_data`` (64 bytes: SHA-512 of a transcript).

    Raises:
        EvidenceError, NotGenuineError, CollateralError: as ``authenticate``.
        UnacceptableError: genuine, but not acceptable; ``failures`` lists every check that failed.
    """
    claims = authenticate(evidence, collateral=collateral, now=now, unsafe_roots=unsafe_roots)
    failures: list[str] = []
    if len(report_data) != REPORT_DATA_BYTES or not compare_digest(claims.report_data, report_data):
        failures.append(STALE)
    try:
        entry = appraise(claims, reference=reference, now=now)
    except UnacceptableError as fault:
        raise UnacceptableError([*failures, *fault.failures]) from None
    if failures:
        raise UnacceptableError(failures)
    return Verified(claims=claims, entry=entry)
