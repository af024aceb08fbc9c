"""Evidence that real hardware made, for tests. It is not part of this repository: it lies in a folder beside it.

Tests that need it carry the mark ``needs_vectors`` and are skipped, saying so, where that folder is missing.
Each vector is genuine at its own time only, which comes with it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

VECTORS: Final = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"

needs_vectors: Final = pytest.mark.skipif(
    not VECTORS.is_dir(), reason=f"no genuine evidence at hand: {VECTORS} is missing"
)


class DcapVector(NamedTuple):
    """An SGX or TDX quote, Intel's collateral for it, and what a correct verifier says of both at ``now``."""

    name: str
    quote: bytes
    collateral_json: bytes
    now: datetime
    verdict: str
    """A TCB status with its advisories, comma-separated, or ``reject: <reason>``."""

    @property
    def rejected(self) -> bool:
        """Whether the right answer at ``now`` is a refusal."""
        return self.verdict.startswith("reject")

    @property
    def status(self) -> str:
        """The TCB status."""
        return self.verdict.split(" ")[0]

    @property
    def advisories(self) -> tuple[str, ...]:
        """The advisories, sorted."""
        return tuple(sorted(filter(None, self.verdict.partition(" ")[2].split(","))))


class SnpVector(NamedTuple):
    """An SEV-SNP report with its chain (DER: VCEK or VLEK, ASK or ASVK, ARK), genuine at ``now``."""

    name: str
    report: bytes
    vek: bytes
    ask: bytes
    ark: bytes
    now: datetime
    meta: dict[str, Any]
    """What the report and its certificate say: product, vmpl, policy, debug, tcb, csp and more."""


def _names(kind: str) -> list[str]:
    folder = VECTORS / kind
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def dcap_names() -> list[str]:
    """The SGX and TDX vectors; none where the folder is missing."""
    return _names("dcap")


def snp_names() -> list[str]:
    """The SEV-SNP vectors; none where the folder is missing."""
    return _names("snp")


@cache
def dcap(name: str) -> DcapVector:
    """The SGX or TDX vector of that name."""
    folder = VECTORS / "dcap" / name
    meta = json.loads((folder / "meta.json").read_bytes())
    return DcapVector(
        name=name,
        quote=(folder / "quote.bin").read_bytes(),
        collateral_json=(folder / "collateral.json").read_bytes(),
        now=datetime.fromtimestamp(meta["now"], UTC),
        verdict=meta["verdict"],
    )


@cache
def snp(name: str) -> SnpVector:
    """The SEV-SNP vector of that name."""
    folder = VECTORS / "snp" / name
    meta = json.loads((folder / "meta.json").read_bytes())
    return SnpVector(
        name=name,
        report=(folder / "report.bin").read_bytes(),
        vek=(folder / "vek.der").read_bytes(),
        ask=(folder / "ask.der").read_bytes(),
        ark=(folder / "ark.der").read_bytes(),
        now=datetime.fromisoformat(meta["time"]),
        meta=meta,
    )


@cache
def ratls(name: str) -> bytes:
    """An RA-TLS certificate in DER, such as ``ccc-gramine-cert``."""
    return (VECTORS / "ratls" / f"{name}.der").read_bytes()
