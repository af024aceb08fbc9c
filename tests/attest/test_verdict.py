"""The verdict: its page for a person, its form for machines, and its line for a log."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest.claims import Claims, DcapTcb, SgxClaims, SimulatedClaims, SnpClaims, TdxClaims
from cloister.attest.facts import facts
from cloister.attest.reference import DcapFloor, Entry, SgxEntry, SimulatedEntry, SnpEntry, TdxEntry
from cloister.attest.tcb import SnpTcb
from cloister.attest.text import page
from cloister.attest.transcript import Transcript
from cloister.attest.verdict import Member, Outcome, Rules, Verdict, plain
from cloister.errors import (
    CharterError,
    CollateralError,
    EvidenceError,
    MessageError,
    NoTeeError,
    NotGenuineError,
    UnacceptableError,
    UnreachableError,
)

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
ISSUED = NOW - timedelta(days=9)

TCB = DcapTcb(
    status="SWHardeningNeeded",
    advisories=("INTEL-SA-00289", "INTEL-SA-00615"),
    tcb_date=NOW - timedelta(days=300),
    eval_number=17,
    collateral_issued=ISSUED,
    collateral_expires=ISSUED + timedelta(days=30),
    fmspc=bytes.fromhex("00906ed50000"),
    ppid=b"\x11" * 16,
    platform_instance_id=None,
    cpu_svn=b"\x0c" * 16,
    pce_svn=13,
    qe_isv_svn=8,
)
SGX = SgxClaims(
    report_data=bytes(64),
    mr_enclave=b"\xe1" * 32,
    mr_signer=b"\xe2" * 32,
    isv_prod_id=3,
    isv_svn=4,
    attributes=bytes(16),
    misc_select=0,
    debug=False,
    tcb=TCB,
)
TDX = TdxClaims(
    report_data=bytes(64),
    mr_td=b"\xd0" * 48,
    rt_mr0=b"\xd1" * 48,
    rt_mr1=b"\xd2" * 48,
    rt_mr2=b"\xd3" * 48,
    rt_mr3=b"\xd4" * 48,
    mr_config_id=bytes(48),
    mr_owner=bytes(48),
    mr_owner_config=bytes(48),
    mr_seam=b"\xd5" * 48,
    mr_signer_seam=bytes(48),
    tee_tcb_svn=bytes(16),
    td_attributes=bytes(8),
    xfam=bytes(8),
    debug=False,
    tcb=replace(TCB, status="UpToDate", advisories=()),
)
VERSIONS = SnpTcb(bl=3, tee=0, snp=8, ucode=209)
SNP = SnpClaims(
    report_data=bytes(64),
    measurement=b"\xa0" * 48,
    host_data=bytes(32),
    id_key_digest=bytes(48),
    author_key_digest=bytes(48),
    family_id=bytes(16),
    image_id=bytes(16),
    report_id=bytes(32),
    guest_svn=0,
    policy=0x30000,
    debug=False,
    migratable=False,
    smt=True,
    single_socket=False,
    vmpl=0,
    product="Milan",
    signer="vcek",
    csp_id=None,
    chip_id=b"\xc1" * 64,
    platform_info=1,
    reported=VERSIONS,
    committed=VERSIONS,
    launch=VERSIONS,
    current=VERSIONS,
    crl_issued=None,
    crl_expires=None,
)
SIMULATED = SimulatedClaims(report_data=bytes(64), measurement=b"\x3f" * 48, svn=1, debug=False, platform=b"\x77" * 32)
ALL = {"sgx": SGX, "tdx": TDX, "snp": SNP, "simulated": SIMULATED}

FLOOR = DcapFloor(
    allowed_status=frozenset({"UpToDate", "SWHardeningNeeded"}),
    allowed_advisories=frozenset(TCB.advisories),
    min_eval_number=17,
    max_collateral_age=timedelta(days=30),
)
ENTRIES: dict[str, Entry] = {
    "sgx": SgxEntry(
        name="aggregator 0.1 on Gramine 1.9",
        mr_enclave=frozenset({SGX.mr_enclave}),
        mr_signer="any",
        isv_prod_id=3,
        min_isv_svn=0,
        tcb=FLOOR,
        platforms="any",
    ),
    "tdx": TdxEntry(
        name="aggregator 0.1 in a TD",
        mr_td=frozenset({TDX.mr_td}),
        rt_mr0=frozenset({TDX.rt_mr0}),
        rt_mr1=frozenset({TDX.rt_mr1}),
        rt_mr2=frozenset({TDX.rt_mr2}),
        rt_mr3=frozenset({TDX.rt_mr3}),
        mr_config_id="any",
        mr_owner="any",
        mr_owner_config="any",
        min_tee_tcb_svn=bytes(16),
        tcb=replace(FLOOR, allowed_advisories="any"),
        platforms=frozenset({"ppid:" + "11" * 16}),
    ),
    "snp": SnpEntry(
        name="aggregator 0.1 in a guest",
        measurement=frozenset({SNP.measurement}),
        host_data=frozenset({bytes(32)}),
        id_key_digest="any",
        author_key_digest="any",
        min_guest_svn=0,
        min_tcb={"Milan": VERSIONS},
        allow_smt=True,
        require_single_socket=False,
        signers=frozenset({"vcek"}),
        max_collateral_age=None,
        unsafe_no_revocation=True,
        platforms=frozenset({"chip_id:" + "c1" * 64}),
    ),
    "simulated": SimulatedEntry(
        name="aggregator 0.1", measurement=frozenset({SIMULATED.measurement}), min_svn=1, platforms="any"
    ),
}
RULES = Rules(
    name="stroke-study",
    serial=1,
    digest=b"\x9c" * 32,
    floor=3,
    members=(
        Member(name="alice", role="owner", key="sha256:" + "aa" * 32),
        Member(name="bob", role="owner", key="sha256:" + "bb" * 32),
        Member(name="carol", role="researcher", key="sha256:" + "cc" * 32),
    ),
    limits={"clip": "1.0", "noise": "none"},
    warnings=("The charter adds no noise.",),
)
TRANSCRIPT = Transcript(
    role="aggregator",
    tee="simulated",
    nonce=b"\x01" * 32,
    hpke_key=b"\x02" * 1216,
    signing_key=b"\x03" * 32,
    charter=RULES.digest,
    instance=b"\x04" * 16,
    name="agg.example:7443",
    server=b"\x05" * 32,
    client=None,
    ledger_head=b"",
    ledger_sequence=0,
    configuration=None,
)

KEYS = """
format verdict checked_at address failures tee entry software tcb platform report_data charter instance keys freshness
notes does_not_prove
""".split()


def accepted(tee: str) -> Verdict:
    return Verdict.accepted(
        ALL[tee],
        entry=ENTRIES[tee],
        checked_at=NOW,
        rules=RULES,
        transcript=replace(TRANSCRIPT, tee=tee),
        address="agg.example:7443",
        took=timedelta(seconds=0.25),
    )


def text(verdict: Verdict) -> str:
    """The page, with the sentences unwrapped."""
    return " ".join("\n".join(page(verdict)).split())


# What the page has to say for each kind of TEE, whatever else it says.
FRAGMENTS = {
    "sgx": [
        "kind Intel SGX",
        "mr_enclave " + "e1" * 32,
        "status SWHardeningNeeded",
        "advisories INTEL-SA-00289, INTEL-SA-00615",
        "ppid " + "11" * 16,
        "collateral issued 2026-02-23 12:00:00 UTC, 9 days old",
        "its status is SWHardeningNeeded (INTEL-SA-00289, INTEL-SA-00615)",
        "Which mr_signer it has: the entry allows any.",
        "Which machine it is: the entry allows any platform",
        "That Intel is honest",
    ],
    "tdx": [
        "kind Intel TDX",
        "mr_td " + "d0" * 48,
        "mr_owner zeros (48 bytes)",
        "rt_mr3 " + "d4" * 48,
        "status UpToDate",
        "advisories none",
        "Which mr_config_id it has: the entry allows any.",
        "the entry allows any advisory",
    ],
    "snp": [
        "kind AMD SEV-SNP",
        "measurement " + "a0" * 48,
        "chip_id " + "c1" * 64,
        "committed bl 3 tee 0 snp 8 ucode 209",
        "revocation unknown: no CRL",
        "That its signer was not revoked",
        "simultaneous multithreading",
        "That AMD is honest",
    ],
    "simulated": [
        "kind simulated TEE (proves nothing)",
        "measurement " + "3f" * 48,
        "anyone can make this evidence, with any measurement in it",
    ],
}
EVERYWHERE = [
    "charter stroke-study #1",
    "digest " + "9c" * 32,
    "floor 3",
    "noise none",
    "alice (owner) sha256:" + "aa" * 32,
    "carol (researcher)",
    "tls sha256:" + "05" * 32,
    "hpke sha256:",
    "signing sha256:",
    "nonce " + "01" * 32 + " (made by us for this question)",
    "at most 0.2 s before it was checked",
    "What this does not prove",
    "attacks its chip or memory bus",
    "What the charter gives up - The charter adds no noise.",
    "That the members signed the charter",
    "That the software is right.",
    "The operator can stop it",
    "and is to be proved anew",
]


@pytest.mark.parametrize("tee", ALL)
def test_the_page_says_what_was_proved(tee):
    told = text(accepted(tee))
    entry = f"charter entry {ENTRIES[tee].name}"
    assert [part for part in [*FRAGMENTS[tee], *EVERYWHERE, entry] if part not in told] == []


@pytest.mark.parametrize("tee", ALL)
def test_the_first_line_is_the_answer(tee):
    first = next(page(accepted(tee)))
    if tee == "simulated":
        assert first.startswith("ACCEPTABLE AS A REHEARSAL: agg.example:7443 ")
        assert "proves nothing" in first
    else:
        assert first == "ACCEPTABLE: agg.example:7443 is what the charter asks for."


def test_an_entry_without_an_any_leaves_none_to_spell_out():
    strict = replace(ENTRIES["sgx"], mr_signer=frozenset({SGX.mr_signer}), platforms=frozenset({"ppid:" + "11" * 16}))
    assert "allows any" in text(accepted("sgx"))
    assert "allows any" not in text(replace(accepted("sgx"), entry=strict))


def test_any_software_comes_first_of_what_is_not_proved():
    loose = replace(ENTRIES["sgx"], mr_enclave="any")
    assert replace(accepted("sgx"), entry=loose).does_not_prove[0] == (
        "Which software runs: the entry allows any (unsafe_any_software)."
    )


FAULTS = [
    (UnacceptableError(["it is a debug enclave", "isv_svn is 1, below 2"]), Outcome.UNACCEPTABLE),
    (CharterError("it runs under another charter"), Outcome.UNACCEPTABLE),
    (NotGenuineError("the signature does not fit"), Outcome.NOT_GENUINE),
    (EvidenceError("it does not decode"), Outcome.UNREADABLE),
    (NoTeeError("its TEE gives no evidence"), Outcome.UNREADABLE),
    (CollateralError("the TCB info expired"), Outcome.UNDECIDED),
    (UnreachableError("nobody listens"), Outcome.UNDECIDED),
    (MessageError("it talks of something else"), Outcome.UNDECIDED),
]


@pytest.mark.parametrize(("fault", "outcome"), FAULTS, ids=lambda it: type(it).__name__)
def test_a_refusal_says_so_first_and_lists_every_failed_check(fault, outcome):
    verdict = Verdict.refused(fault, checked_at=NOW, rules=RULES, address="agg.example:7443")
    lines = list(page(verdict))
    assert verdict.outcome is outcome
    assert lines[0].startswith("NOT ACCEPTABLE")
    assert lines[0].endswith("Send it nothing.")
    failures = getattr(fault, "failures", (str(fault),))
    assert lines[2 : 3 + len(failures)] == ["Failed checks", *(f"  - {failure}" for failure in failures)]
    assert verdict.as_dict()["failures"] == list(failures)
    assert "ACCEPTABLE:" not in lines[0].removeprefix("NOT ACCEPTABLE:")
    assert verdict.line().startswith(f"refused ({outcome}): {failures[0]}")


def test_a_long_list_of_failures_is_whole_on_the_page_and_short_in_the_line():
    failures = [f"check number {number} failed" for number in range(40)]
    verdict = Verdict.refused(UnacceptableError(failures), checked_at=NOW)
    told = "\n".join(page(verdict))
    assert all(failure in told for failure in failures)
    assert "; and 37 more" in verdict.line()
    assert "number 3 failed" not in verdict.line()


@pytest.mark.parametrize("tee", ALL)
def test_the_keys_for_machines_are_always_the_same(tee):
    nothing = Verdict.refused(EvidenceError("empty"), checked_at=NOW)
    assert list(accepted(tee).as_dict()) == list(nothing.as_dict()) == KEYS
    told = json.loads(json.dumps(accepted(tee).as_dict()))
    assert told == accepted(tee).as_dict()
    assert list(told["charter"]) == "name serial digest floor limits members gives_up".split()
    assert list(told["instance"]) == "role name id configuration ledger_sequence ledger_head".split()
    assert list(told["keys"]) == "tls hpke signing own".split()
    assert list(told["freshness"]) == (
        "nonce evidence_age_s collateral_issued collateral_expires collateral_age_s".split()
    )


def test_what_machines_read():
    told = accepted("sgx").as_dict()
    assert told["format"] == "cloister verdict 1"
    assert told["verdict"] == "acceptable"
    assert told["checked_at"] == "2026-03-04T12:00:00+00:00"
    assert told["software"]["mr_enclave"] == "e1" * 32
    assert told["software"]["debug"] is False
    assert told["tcb"]["advisories"] == ["INTEL-SA-00289", "INTEL-SA-00615"]
    assert told["freshness"]["collateral_age_s"] == 9 * 86400
    assert told["freshness"]["evidence_age_s"] == 0.25
    assert told["charter"]["members"][2] == {"name": "carol", "role": "researcher", "key": "sha256:" + "cc" * 32}


def test_one_line_for_a_log():
    assert accepted("simulated").line() == (
        'verified: simulated TEE (proves nothing), software "aggregator 0.1" 3f3f3f3f3f3f..., '
        "charter stroke-study #1 9c9c9c9c9c9c..., 3 members, floor 3"
    )
    assert accepted("sgx").line().startswith("verified: Intel SGX SWHardeningNeeded, software ")


def test_unverified_facts_are_never_called_verified():
    verdict = Verdict(outcome=Outcome.UNVERIFIED, checked_at=NOW, facts=facts(SGX))
    told = text(verdict)
    assert told.startswith("NOT VERIFIED: ")
    assert "neither the TEE's signature" in told
    assert verdict.line().startswith("unverified: ")


HOSTILE = st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Lu", "Co"]) | st.just("\x1b"), min_size=1)


@given(HOSTILE)
def test_nothing_from_outside_steers_a_terminal(hostile):
    rules = replace(
        RULES, name=hostile, members=(Member(name=hostile, role=hostile, key=hostile),), warnings=(hostile,)
    )
    good = replace(accepted("simulated"), rules=rules, entry=replace(ENTRIES["simulated"], name=hostile))
    bad = Verdict.refused(UnacceptableError([hostile, hostile]), checked_at=NOW, rules=rules, address=hostile)
    for verdict in (good, bad):
        assert all(line.isprintable() for line in page(verdict))
        assert verdict.line().isprintable()
        assert json.dumps(verdict.as_dict()).isprintable()


def test_what_can_be_printed_stays_as_it_is():
    assert plain("Universitätsklinik in 東京") == "Universitätsklinik in 東京"
    assert plain("\x1b[2Jevil\n\u202e") == "\\x1b[2Jevil\\n\\u202e"


def test_every_claim_reaches_the_reader():
    """A field that is added to the claims is shown, or left out on purpose."""
    left_out = {"report_id", "tcb", "report_data", "crl_issued", "crl_expires"}
    for claims in ALL.values():
        told = facts(claims)
        shown = {*told.software, *told.tcb, *told.platform}
        assert set(type(claims).__slots__) - shown <= left_out, type(claims)


def test_claims_of_every_kind_are_covered():
    assert set(ALL) == {kind.tee for kind in Claims.__args__}
