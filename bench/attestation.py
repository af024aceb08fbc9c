"""What verification costs: genuine quotes and reports, warm; and an attested connection, with the share of each step.

The genuine evidence lies beside the project, not in it: where it is missing that part is left out, and says so.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measure import Timing
from cloister.attest import reference_toml
from cloister.attest.attester import find
from cloister.attest.dcap.collateral import Collateral, DcapCollateral
from cloister.attest.evidence import Evidence
from cloister.attest.reference import Reference
from cloister.attest.verifier import authenticate, verify
from cloister.net.attested import attest_peer
from cloister.net.contexts import unverified_client_context
from cloister.net.dial import handshake, reach
from cloister.net.proving import Instance
from cloister.net.tls import wrap
from cloister.tables import Table as Toml
from cloister.testing.federation import LocalFederation
from cloister.wire.peers import parse_address

VECTORS = Path(__file__).parents[2] / "shared" / "vectors"
_NAME = "aggregator.example:7443"
_VERIFICATIONS, _CONNECTIONS = 200, 100


def run(console: Console, folder: Path) -> None:
    """Warm verification, then attested connections."""
    _verifications(console)
    _connections(console, folder)


def timed(work: Callable[[], object], *, repeats: int, warm_up: int = 5) -> Timing:
    """``work``, so many times after a warm-up."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return Timing(tuple(times))


def _row(table: Table, name: str, timing: Timing, *rest: str) -> None:
    ordered = sorted(timing.times)
    numbers = (statistics.median(ordered), ordered[0], ordered[int(0.99 * (len(ordered) - 1))])
    table.add_row(name, *(f"{number * 1e3:,.2f}" for number in numbers), *rest)


def _table(title: str, *more: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("p50, ms", "min", "p99", *more):
        table.add_column(column, justify="right")
    return table


def _verifications(console: Console) -> None:
    if not VECTORS.is_dir():
        console.print(f"(h) left out: no genuine evidence at {VECTORS}\n", style="yellow")
        return
    table = _table("(h) warm verification of genuine evidence, appraisal included", "aim")
    for name, evidence, collateral, now in (
        _dcap("sgx", "sgx-v3-swhardening-2025"),
        _dcap("tdx", "tdx-v4-uptodate-2025"),
        _snp("Milan_VCEK_v3_0fb10950"),
    ):
        claims = authenticate(evidence, collateral=collateral, now=now)
        reference = _reference(evidence.tee, claims)
        timing = timed(
            partial(
                verify,
                evidence,
                reference=reference,
                collateral=collateral,
                now=now,
                report_data=claims.report_data,
            ),
            repeats=_VERIFICATIONS,
        )
        _row(table, name, timing, "10 ms")
    console.print(table)


def _dcap(tee: str, name: str) -> tuple[str, Evidence, Collateral, datetime]:
    folder = VECTORS / "dcap" / name
    meta = json.loads((folder / "meta.json").read_text())
    evidence = Evidence(tee=tee, quote=(folder / "quote.bin").read_bytes())  # type: ignore[arg-type]
    collateral = DcapCollateral.parse((folder / "collateral.json").read_bytes())
    return name, evidence, collateral, datetime.fromtimestamp(meta["now"], UTC)


def _snp(name: str) -> tuple[str, Evidence, None, datetime]:
    folder = VECTORS / "snp" / name
    certificates = tuple((folder / f"{part}.der").read_bytes() for part in ("vek", "ask", "ark"))
    evidence = Evidence(tee="snp", quote=(folder / "report.bin").read_bytes(), endorsements=certificates)
    return name, evidence, None, datetime.fromisoformat(json.loads((folder / "meta.json").read_text())["time"])


def _reference(tee: str, claims: object) -> Reference:
    """One entry that accepts these claims, and ten that do not, as while software is being rotated."""
    names = {"sgx": "mr_enclave", "tdx": "mr_td", "snp": "measurement"}
    own = getattr(claims, names[tee]).hex()
    other = "00" * (len(own) // 2)
    by_tee: dict[str, dict[str, Any]] = {
        "sgx": {"mr_signer": "any", "isv_prod_id": "any", "min_isv_svn": 0},
        "tdx": dict.fromkeys(
            ("rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_config_id", "mr_owner", "mr_owner_config"), "any"
        ),
        "snp": {
            **dict.fromkeys(("host_data", "id_key_digest", "author_key_digest"), "any"),
            "min_guest_svn": 0,
            "products": ["Milan"],
            "min_tcb": {"Milan": {"bl": 0, "tee": 0, "snp": 0, "ucode": 0}},
            "allow_smt": True,
            "require_single_socket": False,
            "signers": ["vcek"],
            "unsafe_no_revocation": True,
        },
    }
    tcb = {
        "allowed_status": ["UpToDate", "SWHardeningNeeded"],
        "allowed_advisories": "any",
        "min_eval_number": 0,
        "max_collateral_age": "365 d",
    }
    faults: list[str] = []
    tables = [
        Toml(
            {
                "name": f"entry {number}",
                "tee": tee,
                names[tee]: [own if number == 10 else other],
                **by_tee[tee],
                **({} if tee == "snp" else tcb),
                "platforms": "any",
            },
            faults=faults,
        )
        for number in range(11)
    ]
    reference = reference_toml.parse(tables)
    assert not faults, faults
    return reference


def _connections(console: Console, folder: Path) -> None:
    with LocalFederation(folder, ["bob", "alice"], aggregator=_NAME, interactive=False) as federation:
        address = federation.start_aggregator()
        policy, bob = federation.policy(), federation.identities["bob"]

        def connect() -> None:
            attest_peer(_NAME, policy=policy, identity=bob, at=address).close()

        def shake_hands() -> None:
            raw = reach(parse_address(address), within_s=10.0)
            secured = wrap(raw, context=unverified_client_context(bob), server_side=False)
            handshake(secured, within_s=10.0)
            secured.close()

        whole = timed(connect, repeats=_CONNECTIONS)
        shaking = timed(shake_hands, repeats=_CONNECTIONS)
        with attest_peer(_NAME, policy=policy, identity=bob, at=address) as attested:
            again = timed(attested.attest, repeats=_CONNECTIONS // 2)
            judging = timed(
                lambda: verify(
                    attested.evidence,
                    reference=federation.agreed.reference,
                    collateral=None,
                    now=attested.attested_at,
                    report_data=attested.transcript.report_data(),
                ),
                repeats=_CONNECTIONS,
            )
    attester = find("simulated", role="aggregator")
    instance = Instance(role="aggregator", attester=attester, charter=policy.charter.digest, name=_NAME)
    proving = timed(lambda: instance.prove(instance.transcript(bytes(32), client=None)), repeats=_CONNECTIONS)
    table = _table("(i) attested connection over loopback, simulated TEE", "share", "aim")
    parts = {"TCP and TLS, both certificates": shaking, "making the proof": proving, "judging it": judging}
    _row(table, "the whole", whole, "", "30 ms")
    for name, timing in parts.items():
        _row(table, f"  {name}", timing, f"{timing.median / whole.median:.0%}", "")
    rest = whole.median - sum(timing.median for timing in parts.values())
    table.add_row("  round trip, framing, processes", f"{rest * 1e3:,.2f}", "", "", f"{rest / whole.median:.0%}", "")
    _row(table, "re-attestation on a live connection", again, "", "")
    console.print(table)
