"""Attack: evidence that anyone can make, shown as if a real TEE had made it.

Simulated evidence satisfies no reference that does not name ``simulated``, however wide the reference is and whatever
the evidence is called. Where a reference names it, it satisfies exactly what stands there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random

import pytest

from cloister.attest import simulated, simulated_report
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.claims import SimulatedClaims
from cloister.attest.dcap.collateral import Collateral, DcapCollateral, SnpCollateral
from cloister.attest.evidence import TEES, Evidence, encode
from cloister.attest.received import decode
from cloister.attest.reference import DcapFloor, Entry, Reference, SgxEntry, SimulatedEntry, SnpEntry, TdxEntry
from cloister.attest.tcb import SnpTcb
from cloister.attest.verifier import verify
from cloister.errors import AttestationError, EvidenceError, UnacceptableError
from tests.attest.genuine import dcap, dcap_names, snp, snp_names
from tests.attest.tsmfs import sgx_quote, snp_report, tdx_quote

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CASES = 10_000
REAL = ("sgx", "tdx", "snp")


class Forger:
    """Chooses what an attacker may choose, and references that are as wide as they come."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        # Few values, so that fields meet; what is genuine joins them where it is at hand.
        self.pool = [bytes(64), b"\xff" * 64, *(self.random.randbytes(64) for _ in range(3))]

    def value(self, size: int) -> bytes:
        return self.random.choice(self.pool)[:size]

    def values(self, size: int):
        return self.random.choice(["any", frozenset(self.value(size) for _ in range(3))])

    def platforms(self):
        known = frozenset(f"{kind}:{value[:32].hex()}" for kind in ("simulated", "ppid") for value in self.pool)
        return self.random.choice(["any", known])

    def report(self, report_data: bytes) -> bytes:
        return simulated_report.make(
            report_data,
            measurement=self.value(48),
            platform=self.value(32),
            svn=self.random.randrange(4),
            debug=self.random.random() < 0.2,
        )

    def floor(self) -> DcapFloor:
        return DcapFloor(
            allowed_status=frozenset({"UpToDate", "SWHardeningNeeded", "OutOfDate"}),
            allowed_advisories="any",
            min_eval_number=0,
            max_collateral_age=timedelta(days=self.random.choice([1, 3650])),
        )

    def entry(self, tee: str) -> Entry:
        name = self.random.choice(["simulated", "any", "aggregator", ""])
        if tee == "simulated":
            return SimulatedEntry(
                name=name, measurement=self.values(48), min_svn=self.random.randrange(4), platforms=self.platforms()
            )
        if tee == "snp":
            floors = {product: SnpTcb(bl=0, tee=0, snp=0, ucode=0) for product in ("Milan", "Genoa", "Turin")}
            return SnpEntry(
                name=name,
                measurement=self.values(48),
                host_data=self.values(32),
                id_key_digest="any",
                author_key_digest="any",
                min_guest_svn=0,
                min_tcb=floors,
                allow_smt=True,
                require_single_socket=False,
                signers=frozenset({"vcek", "vlek", "simulated"}),
                max_collateral_age=None,
                unsafe_no_revocation=True,
                platforms=self.platforms(),
            )
        if tee == "sgx":
            return SgxEntry(
                name=name,
                mr_enclave=self.values(32),
                mr_signer=self.values(32),
                isv_prod_id="any",
                min_isv_svn=0,
                tcb=self.floor(),
                platforms=self.platforms(),
            )
        registers = ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_config_id", "mr_owner", "mr_owner_config")
        return TdxEntry(
            name=name,
            **{register: self.values(48) for register in registers},
            min_tee_tcb_svn=bytes(16),
            tcb=self.floor(),
            platforms=self.platforms(),
        )

    def reference(self, *tees: str) -> Reference:
        return tuple(self.entry(self.random.choice(tees)) for _ in range(self.random.randrange(5)))

    def collateral(self) -> Collateral | None:
        return self.random.choice([None, *bundles()])

    def disguise(self, report: bytes, report_data: bytes) -> Evidence:
        """A simulated report as evidence of any TEE: as it is, in a real one's shape, or with a real one around it."""
        tee = self.random.choice(TEES)
        shapes = [sgx_quote(report_data), tdx_quote(report_data), snp_report(report_data), *quotes()]
        shape = self.random.choice(shapes)
        at = self.random.randrange(len(shape))
        quote = self.random.choice(
            [report, report, report, report + shape, shape[:at] + report + shape[at + len(report) :]]
        )
        certificates = () if self.random.random() < 0.7 else self.random.choice([(report,), *chains()])
        return Evidence(tee=tee, quote=quote, endorsements=certificates)

    def on_its_way(self, evidence: Evidence) -> Evidence:
        """The evidence as it arrives: sometimes with a changed byte, perhaps in the word that says which TEE it is."""
        data = bytearray(encode(evidence))
        if self.random.random() < 0.3:
            data[self.random.randrange(min(len(data), 300))] = self.random.randrange(256)
        return decode(bytes(data))


@cache
def bundles() -> list[Collateral]:
    """Collateral: genuine where it is at hand, and noise."""
    kinds = {name: str(kind) for name, kind in DcapCollateral.__annotations__.items()}
    noise = DcapCollateral(**{name: "noise" if kind == "str" else b"noise" for name, kind in kinds.items()})
    nothing = SnpCollateral(vek=None, ask=None, ark=None, crl=None)
    return [noise, nothing, *(DcapCollateral.parse(dcap(name).collateral_json) for name in dcap_names())]


@cache
def quotes() -> list[bytes]:
    return [dcap(name).quote for name in dcap_names()] + [snp(name).report for name in snp_names()]


@cache
def chains() -> list[tuple[bytes, ...]]:
    return [(snp(name).vek, snp(name).ask, snp(name).ark) for name in snp_names()]


@pytest.mark.slow
def test_it_satisfies_no_reference_that_does_not_name_it():
    forger = Forger(seed=1)
    called_by_its_name = 0
    for _ in range(CASES):
        report_data = forger.value(64)
        reference = forger.reference(*REAL)
        evidence = forger.disguise(forger.report(report_data), report_data)
        try:
            arrived = forger.on_its_way(evidence)
        except EvidenceError:
            continue
        with pytest.raises(AttestationError) as refused:
            verify(arrived, reference=reference, collateral=forger.collateral(), now=NOW, report_data=report_data)
        if arrived == evidence and arrived.tee == "simulated" and isinstance(refused.value, UnacceptableError):
            assert refused.value.failures == ("no entry of the reference names simulated TEEs",)
            called_by_its_name += 1
    assert called_by_its_name > CASES // 25, "else the loop shows less than it says"


def accepts(entry: Entry, claims: SimulatedClaims) -> bool:
    """Whether an entry names what the claims say, written down a second time."""
    return (
        isinstance(entry, SimulatedEntry)
        and (entry.measurement == "any" or claims.measurement in entry.measurement)
        and (entry.platforms == "any" or f"simulated:{claims.platform.hex()}" in entry.platforms)
        and claims.svn >= entry.min_svn
        and not claims.debug
    )


@pytest.mark.slow
def test_it_satisfies_exactly_what_names_it():
    forger = Forger(seed=2)
    accepted = 0
    for _ in range(CASES // 5):
        report_data = forger.value(64)
        reference = forger.reference(*TEES)
        report = forger.report(report_data)
        claims = simulated.authenticate(report)
        accepting = [entry for entry in reference if accepts(entry, claims)]
        evidence = Evidence(tee="simulated", quote=report)
        if accepting:
            verified = verify(evidence, reference=reference, collateral=None, now=NOW, report_data=report_data)
            assert (verified.claims, verified.entry) == (claims, accepting[0])
            accepted += 1
        else:
            with pytest.raises(UnacceptableError):
                verify(evidence, reference=reference, collateral=None, now=NOW, report_data=report_data)
    assert CASES // 50 < accepted < CASES // 8


@pytest.mark.parametrize("tee", REAL)
def test_what_this_process_says_about_itself_is_no_other_tees_evidence(tee):
    report_data = b"x" * 64
    report = SimulatedAttester.start("aggregator").evidence(report_data).quote
    forger = Forger(seed=3)
    for collateral in (None, *bundles()):
        with pytest.raises(AttestationError):
            verify(
                Evidence(tee=tee, quote=report),
                reference=tuple(forger.entry(kind) for kind in TEES),
                collateral=collateral,
                now=NOW,
                report_data=report_data,
            )
