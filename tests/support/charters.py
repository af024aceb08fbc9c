"""Charters to test with: their text, and members that sign."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.charter import Charter, jobs_toml
from cloister.charter.jobs import AgreedJob
from cloister.charter.signatures import Signature, sign
from cloister.charter.toml import parse_charter
from cloister.wire.optimizers import SGD
from cloister.wire.peers import fingerprint
from cloister.wire.strategies import FedAvg

NOW: Final = datetime(2026, 6, 1, 12, tzinfo=UTC)
SIMULATED: Final = f"""
[[software]]
name = "rehearsal"
tee = "simulated"
measurement = ["{"5a" * 48}"]
min_svn = 0
platforms = "any"
"""
SGX: Final = f"""
[[software]]
name = "on SGX"
tee = "sgx"
mr_enclave = ["{"1e" * 32}"]
mr_signer = "any"
isv_prod_id = 0
min_isv_svn = 2
allowed_status = ["UpToDate", "SWHardeningNeeded"]
allowed_advisories = ["INTEL-SA-00615"]
min_eval_number = 17
max_collateral_age = "30 d"
platforms = ["ppid:{"0f" * 16}"]
"""


def key_of(name: str) -> Ed25519PrivateKey | EllipticCurvePrivateKey:
    """The key of the organisation of that name: always the same. Alice's is of the other kind."""
    seed = hashlib.sha256(name.encode()).digest()
    if name == "alice":
        return derive_private_key(int.from_bytes(seed[:31]), SECP256R1())
    return Ed25519PrivateKey.from_private_bytes(seed)


def fingerprint_of(name: str) -> str:
    return fingerprint(key_of(name).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def member(name: str, role: str = "owner") -> str:
    return f'[[members]]\nname = "{name}"\nrole = "{role}"\nkey = "{fingerprint_of(name)}"\n'


def text(
    *,
    serial: int = 1,
    supersedes: bytes | None = None,
    owners: Iterable[str] = ("bob", "alice", "chuck"),
    auditors: Iterable[str] = (),
    software: str = SIMULATED,
    top: str = "",
    limits: str = "",
    jobs: Iterable[AgreedJob] = (),
    **changed: str,
) -> str:
    """A charter of three owners, valid in 2026, interactive where it has no jobs. ``changed``: limits, as they stand in
    the file."""
    jobs = tuple(jobs)
    values = {
        "floor": "2",
        "largest_share": "0.5",
        "clip": "1.0",
        "noise": '"none"',
        "rounds": "100",
        "min_examples": "10",
        "interactive": "false" if jobs else "true",
    } | changed
    line = "" if supersedes is None else f'supersedes = "{supersedes.hex()}"\n'
    return (
        f'format = "cloister charter 4"\nname = "stroke-study"\nserial = {serial}\n{line}{top}\n'
        "not_before = 2026-01-01T00:00:00Z\nnot_after = 2027-01-01T00:00:00Z\n"
        + "".join(member(name) for name in owners)
        + "".join(member(name, "auditor") for name in auditors)
        + member("rosa", "researcher")
        + f'[aggregator]\naddresses = ["agg.example:7443"]\n{software}\n[limits]\n'
        + "".join(f"{name} = {value}\n" for name, value in values.items())
        + limits
        + "".join(map(jobs_toml.job_toml, jobs))
    )


def agreed_job(plan: bytes, **changed: Any) -> AgreedJob:
    """A job of a charter. ``plan``: its digest."""
    given: dict[str, Any] = {
        "name": "train",
        "plan": plan,
        "data": "#mri",
        "rounds": 3,
        "batch_size": 32,
        "steps": 4,
        "optimizer": SGD(0.1),
        "strategy": FedAvg(),
        "weights": "uniform",
        "max_s": 60,
    }
    return AgreedJob(**given | changed)


def charter(**changed: object) -> Charter:
    return parse_charter(text(**changed))  # type: ignore[arg-type]


def signatures(agreed: Charter, *names: str) -> tuple[Signature, ...]:
    """The signatures of those members, or of all owners."""
    return tuple(sign(agreed, key=key_of(name)) for name in names or [owner.name for owner in agreed.owners])
