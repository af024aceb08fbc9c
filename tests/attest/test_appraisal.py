"""The reference: what an entry accepts, that every failed check is told, and that no entry judges another TEE."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloister.attest import reference_toml
from cloister.attest.appraisal import appraise, tightened
from cloister.attest.claims import Claims, DcapTcb, SgxClaims, SimulatedClaims, SnpClaims, TdxClaims
from cloister.attest.reference import (
    DcapFloor,
    Entry,
    Platforms,
    Reference,
    SgxEntry,
    SimulatedEntry,
    SnpEntry,
    TdxEntry,
    Values,
)
from cloister.attest.reference_toml import STATUSES
from cloister.attest.tcb import SnpTcb
from cloister.errors import UnacceptableError
from cloister.tables import Table, load

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)

TCB = DcapTcb(
    status="SWHardeningNeeded",
    advisories=("INTEL-SA-00615",),
    tcb_date=NOW - 90 * DAY,
    eval_number=17,
    collateral_issued=NOW - 5 * DAY,
    collateral_expires=NOW + 25 * DAY,
    fmspc=bytes(6),
    ppid=b"p" * 16,
    platform_instance_id=b"i" * 16,
    cpu_svn=bytes(16),
    pce_svn=11,
    qe_isv_svn=8,
)
SGX = SgxClaims(
    report_data=bytes(64),
    mr_enclave=b"e" * 32,
    mr_signer=b"s" * 32,
    isv_prod_id=3,
    isv_svn=2,
    attributes=bytes(16),
    misc_select=0,
    debug=False,
    tcb=TCB,
)
TDX = TdxClaims(
    report_data=bytes(64),
    **{
        name: bytes([number]) * 48
        for number, name in enumerate(
            ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_config_id", "mr_owner", "mr_owner_config"), 1
        )
    },
    mr_seam=bytes(48),
    mr_signer_seam=bytes(48),
    tee_tcb_svn=bytes([7, 1, 6]) + bytes(13),
    td_attributes=bytes(8),
    xfam=bytes(8),
    debug=False,
    tcb=TCB,
)
MILAN = SnpTcb(bl=3, tee=0, snp=8, ucode=115)
SNP = SnpClaims(
    report_data=bytes(64),
    measurement=b"m" * 48,
    host_data=b"h" * 32,
    id_key_digest=b"k" * 48,
    author_key_digest=b"a" * 48,
    family_id=bytes(16),
    image_id=bytes(16),
    report_id=bytes(32),
    guest_svn=4,
    policy=0x30000,
    debug=False,
    migratable=False,
    smt=True,
    single_socket=False,
    vmpl=0,
    product="Milan",
    signer="vcek",
    csp_id=None,
    chip_id=b"c" * 64,
    platform_info=1,
    reported=MILAN,
    committed=MILAN,
    launch=MILAN,
    current=MILAN,
    crl_issued=NOW - 5 * DAY,
    crl_expires=NOW + 25 * DAY,
)
SIMULATED = SimulatedClaims(report_data=bytes(64), measurement=b"z" * 48, svn=2, debug=False, platform=b"w" * 32)
CLAIMS: dict[str, Claims] = {"sgx": SGX, "tdx": TDX, "snp": SNP, "simulated": SIMULATED}

FLOOR = """
allowed_status = ["UpToDate", "SWHardeningNeeded"]
allowed_advisories = ["INTEL-SA-00615", "INTEL-SA-00289"]
min_eval_number = 17
max_collateral_age = "30 d"
"""
WRITTEN = {
    "sgx": f"""
mr_enclave = ["{b"x".hex() * 32}", "{SGX.mr_enclave.hex()}"]
mr_signer = ["{SGX.mr_signer.hex()}"]
isv_prod_id = 3
min_isv_svn = 2
platforms = ["ppid:{TCB.ppid.hex()}"]
{FLOOR}""",
    "tdx": "".join(
        f'{name} = ["{getattr(TDX, name).hex()}"]\n'
        for name in ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_config_id", "mr_owner", "mr_owner_config")
    )
    + f"""
min_tee_tcb_svn = "070006{"00" * 13}"
platforms = ["platform_instance_id:{b"i".hex() * 16}"]
{FLOOR}""",
    "snp": f"""
measurement = ["{SNP.measurement.hex()}"]
host_data = ["{SNP.host_data.hex()}"]
id_key_digest = ["{SNP.id_key_digest.hex()}"]
author_key_digest = ["{SNP.author_key_digest.hex()}"]
min_guest_svn = 4
products = ["Milan", "Turin"]
allow_smt = true
require_single_socket = false
signers = ["vcek"]
max_collateral_age = "30 d"
platforms = ["chip_id:{b"c".hex().upper() * 64}"]
min_tcb.Milan = {{ bl = 3, tee = 0, snp = 8, ucode = 115 }}
min_tcb.Turin = {{ bl = 1, tee = 1, snp = 1, ucode = 1, fmc = 1 }}
""",
    "simulated": f"""
measurement = ["{SIMULATED.measurement.hex()}"]
min_svn = 2
platforms = ["simulated:{SIMULATED.platform.hex()}"]
""",
}


def parse(tee: str, *changes: tuple[str, str], name: str = "the entry") -> tuple[Reference, list[str]]:
    text = WRITTEN[tee]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    faults: list[str] = []
    table = Table(load(f'[[software]]\nname = "{name}"\ntee = "{tee}"\n' + text, source="x"), faults=faults)
    reference = reference_toml.parse(table.tables("software"))
    table.finish()
    return reference, faults


def entry(tee: str, *changes: tuple[str, str]) -> Entry:
    reference, faults = parse(tee, *changes)
    assert faults == []
    return reference[0]


def failures(claims: Claims, *accepted: Entry, now: datetime = NOW) -> tuple[str, ...]:
    with pytest.raises(UnacceptableError) as caught:
        appraise(claims, reference=accepted, now=now)
    return caught.value.failures


@pytest.mark.parametrize("tee", CLAIMS)
def test_what_an_entry_names_is_accepted(tee: str) -> None:
    accepted = entry(tee)
    assert accepted.tee == tee
    assert appraise(CLAIMS[tee], reference=(accepted,), now=NOW) is accepted


@pytest.mark.parametrize("tee", CLAIMS)
def test_no_entry_judges_another_tee(tee: str) -> None:
    others = tuple(entry(other) for other in CLAIMS if other != tee)
    assert failures(CLAIMS[tee], *others)[0].startswith("no entry of the reference names")
    assert failures(CLAIMS[tee])[0].startswith("no entry of the reference names")


SVN = b"\x07\x00\x05" + bytes(13)
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("sgx", {"mr_enclave": bytes(32)}, "mr_enclave is 0000"),
    ("sgx", {"mr_signer": bytes(32)}, "mr_signer is 0000"),
    ("sgx", {"isv_prod_id": 4}, "isv_prod_id is 4, not 3"),
    ("sgx", {"isv_svn": 1}, "isv_svn is 1, below 2"),
    ("sgx", {"debug": True}, "a debug enclave"),
    ("sgx", {"tcb": replace(TCB, status="OutOfDate")}, "status is OutOfDate"),
    ("sgx", {"tcb": replace(TCB, advisories=("INTEL-SA-00615", "INTEL-SA-1"))}, "allowed: INTEL-SA-1"),
    ("sgx", {"tcb": replace(TCB, eval_number=16)}, "evaluation number is 16, below 17"),
    ("sgx", {"tcb": replace(TCB, collateral_issued=NOW - 31 * DAY)}, "31 days"),
    ("sgx", {"tcb": replace(TCB, collateral_issued=NOW + DAY)}, "in the future"),
    ("sgx", {"tcb": replace(TCB, ppid=bytes(16))}, "it runs on ppid:0000"),
    *(("tdx", {name: bytes(48)}, f"{name} is 0000") for name in ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3")),
    *(("tdx", {name: bytes(48)}, f"{name} is 0000") for name in ("mr_config_id", "mr_owner", "mr_owner_config")),
    ("tdx", {"debug": True}, "a debug trust domain"),
    ("tdx", {"tee_tcb_svn": SVN}, "in component(s) 2"),
    ("tdx", {"tee_tcb_svn": b"\x07"}, "in component(s) 1, 2, 3"),
    ("tdx", {"tcb": replace(TCB, platform_instance_id=None)}, "it runs on ppid:"),
    ("tdx", {"tcb": replace(TCB, status="UnheardOf")}, "status is UnheardOf"),
    ("snp", {"measurement": bytes(48)}, "measurement is 0000"),
    ("snp", {"host_data": bytes(32)}, "host_data is 0000"),
    ("snp", {"id_key_digest": bytes(48)}, "id_key_digest is 0000"),
    ("snp", {"author_key_digest": bytes(48)}, "author_key_digest is 0000"),
    ("snp", {"guest_svn": 3}, "guest_svn is 3, below 4"),
    ("snp", {"debug": True}, "allows debugging"),
    ("snp", {"migratable": True}, "migration agent"),
    ("snp", {"vmpl": 1}, "at VMPL 1"),
    ("snp", {"product": "Genoa"}, "is a Genoa, not one of: Milan, Turin"),
    ("snp", {"product": "Turin"}, "fmc absent, below 1"),
    ("snp", {"signer": "vlek"}, "signed by a VLEK"),
    *(
        ("snp", {when: replace(MILAN, **{part: least - 1})}, f"the {when} TCB has {part} {least - 1}, below {least}")
        for when in ("committed", "launch", "reported")
        for part, least in (("bl", 3), ("snp", 8), ("ucode", 115))
    ),
    ("snp", {"crl_issued": None}, "no CRL"),
    ("snp", {"crl_issued": NOW - 31 * DAY}, "31 days"),
    ("snp", {"crl_issued": NOW + DAY}, "in the future"),
    ("snp", {"chip_id": bytes(64)}, "it runs on chip_id:0000"),
    ("snp", {"chip_id": None}, "does not say which it is"),
    ("simulated", {"measurement": bytes(48)}, "measurement is 0000"),
    ("simulated", {"svn": 1}, "svn is 1, below 2"),
    ("simulated", {"debug": True}, "debugged"),
    ("simulated", {"platform": bytes(32)}, "it runs on simulated:0000"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("tee", "changed", "failure"), WRONG)
def test_each_check_stands_alone(tee: str, changed: dict[str, Any], failure: str) -> None:
    found = failures(replace(CLAIMS[tee], **changed), entry(tee))
    assert all(each.startswith("the entry: ") for each in found)
    assert any(failure in each for each in found)


@pytest.mark.parametrize("tee", CLAIMS)
def test_every_failed_check_of_every_entry_is_told(tee: str) -> None:
    changed: dict[str, Any] = {}
    for other, change, _ in WRONG:
        if other == tee and "tcb" not in change and "product" not in change and "crl_issued" not in change:
            changed |= {name: value for name, value in change.items() if name not in changed}
    wrong = replace(CLAIMS[tee], **changed)
    accepted = entry(tee)
    second = replace(accepted, name="another")
    elsewhere = entry("sgx" if tee != "sgx" else "tdx")
    found = failures(wrong, accepted, elsewhere, second)
    assert len(found) == 2 * len(changed)
    assert {each.partition(":")[0] for each in found} == {"the entry", "another"}


def test_current_tcb_is_not_asked_for_and_unknown_platform_bits_are_not_refused() -> None:
    claims = replace(SNP, current=SnpTcb(bl=0, tee=0, snp=0, ucode=0), platform_info=0x7F)
    assert appraise(claims, reference=(entry("snp"),), now=NOW).name == "the entry"


def test_the_first_entry_that_accepts_is_told_whatever_the_others_say() -> None:
    good, bad = entry("simulated"), entry("simulated", ("min_svn = 2", "min_svn = 3"))
    assert appraise(SIMULATED, reference=(bad, good, good), now=NOW) is good


def test_software_is_rotated_by_entries_that_overlap() -> None:
    def entry(name: str, measurement: bytes) -> SimulatedEntry:
        return SimulatedEntry(name=name, measurement=frozenset({measurement}), min_svn=0, platforms="any")

    old, new = entry("0.1", b"o" * 48), entry("0.2", b"n" * 48)
    running = {name: replace(SIMULATED, measurement=name[:1].encode() * 48) for name in ("old", "new")}
    for reference, accepted in (((old,), {"old"}), ((old, new), {"old", "new"}), ((new,), {"new"})):
        for name, claims in running.items():
            if name in accepted:
                assert appraise(claims, reference=reference, now=NOW).name == {"old": "0.1", "new": "0.2"}[name]
            else:
                with pytest.raises(UnacceptableError, match="not listed"):
                    appraise(claims, reference=reference, now=NOW)


def test_sockets_and_threads() -> None:
    strict = entry("snp", ("allow_smt = true", "allow_smt = false"), ("socket = false", "socket = true"))
    assert len(failures(SNP, strict)) == 2
    assert appraise(replace(SNP, smt=False, single_socket=True), reference=(strict,), now=NOW) is strict


def test_no_crl_is_accepted_only_where_the_entry_says_so() -> None:
    without = entry("snp", ('max_collateral_age = "30 d"', "unsafe_no_revocation = true"))
    assert appraise(replace(SNP, crl_issued=None), reference=(without,), now=NOW) is without
    assert appraise(SNP, reference=(without,), now=NOW) is without


def test_the_age_is_counted_to_the_moment() -> None:
    accepted = entry("sgx")
    oldest = TCB.collateral_issued + 30 * DAY
    assert appraise(SGX, reference=(accepted,), now=oldest) is accepted
    assert len(failures(SGX, accepted, now=oldest + timedelta(microseconds=1))) == 1


def test_a_lower_age_tightens_every_entry() -> None:
    without = entry("snp", ('max_collateral_age = "30 d"', "unsafe_no_revocation = true"))
    strict = tightened((entry("sgx"), entry("tdx"), without, entry("simulated")), max_collateral_age=4 * DAY)
    for claims in (SGX, TDX, SNP, replace(SNP, crl_issued=None)):
        assert len(failures(claims, *strict)) == 1
    assert appraise(SIMULATED, reference=strict, now=NOW).tee == "simulated"
    assert tightened((entry("sgx"),), max_collateral_age=40 * DAY) == (entry("sgx"),)


# --- what may be written


@pytest.mark.parametrize("tee", CLAIMS)
def test_every_key_but_the_optional_ones_must_be_written(tee: str) -> None:
    lines = WRITTEN[tee].splitlines()
    for index, line in enumerate(lines):
        key = line.partition(" ")[0]
        if key and key not in ("min_tee_tcb_svn",):
            _, faults = parse(tee, (WRITTEN[tee], "\n".join(lines[:index] + lines[index + 1 :])))
            assert any(key in fault for fault in faults), key


@pytest.mark.parametrize("tee", CLAIMS)
def test_unknown_keys_are_refused(tee: str) -> None:
    _, faults = parse(tee, (WRITTEN[tee], "allow_debug = true\n" + WRITTEN[tee]))
    assert [fault.partition(":")[0] for fault in faults] == ["software[0].allow_debug"]


@pytest.mark.parametrize(
    ("tee", "old", "new", "key"),
    [
        ("sgx", '["UpToDate", "SWHardeningNeeded"]', '["UpToDate", "Revoked"]', "allowed_status"),
        ("sgx", '["UpToDate", "SWHardeningNeeded"]', '"any"', "allowed_status"),
        ("sgx", '"INTEL-SA-00289"', '"INTEL"', "allowed_advisories"),
        ("sgx", '"30 d"', '"0 d"', "max_collateral_age"),
        ("sgx", "ppid:", "chip_id:", "platforms"),
        ("sgx", TCB.ppid.hex(), "00" * 16, "platforms"),
        ("sgx", TCB.ppid.hex(), TCB.ppid.hex()[:-2], "platforms"),
        ("sgx", TCB.ppid.hex(), TCB.ppid.hex()[:-2] + " 1", "platforms"),
        ("sgx", "isv_prod_id = 3", "isv_prod_id = 65536", "isv_prod_id"),
        ("snp", '["Milan", "Turin"]', '["Milan", "Rome"]', "products"),
        ("snp", ", fmc = 1", "", "min_tcb.Turin.fmc"),
        ("snp", "ucode = 115 }", "ucode = 115, fmc = 1 }", "min_tcb.Milan.fmc"),
        ("snp", "ucode = 115 }", "ucode = 256 }", "min_tcb.Milan.ucode"),
        ("snp", '["vcek"]', "[]", "signers"),
        ("snp", 'max_collateral_age = "30 d"', 'max_collateral_age = "30 d"\nunsafe_no_revocation = true', "max_coll"),
        ("simulated", f'["{SIMULATED.measurement.hex()}"]', '"any"', "measurement"),
        ("simulated", "min_svn = 2", "min_svn = 2\nunsafe_any_software = true", "unsafe_any_software"),
    ],
)
def test_values_that_are_none(tee: str, old: str, new: str, key: str) -> None:
    _, faults = parse(tee, (old, new))
    assert len(faults) == 1
    assert faults[0].startswith(f"software[0].{key}")


def test_any_software_is_said_in_so_many_words() -> None:
    measured = (f'["{SIMULATED.measurement.hex()}"]', '"any"')
    accepted = entry("simulated", measured, ("min_svn = 2", "min_svn = 2\nunsafe_any_software = true"))
    assert appraise(replace(SIMULATED, measurement=bytes(48)), reference=(accepted,), now=NOW) is accepted
    signer = entry("sgx", (f'["{b"x".hex() * 32}", "{SGX.mr_enclave.hex()}"]', '"any"'))
    assert appraise(replace(SGX, mr_enclave=bytes(32)), reference=(signer,), now=NOW) is signer


# --- laws

BYTES = (bytes(48), b"z" * 48, b"m" * 48, b"\x01" * 48)


def values(chance: random.Random) -> Values:
    return "any" if chance.random() < 0.5 else frozenset(chance.choices(BYTES, k=chance.randrange(3)))


def real(chance: random.Random) -> Entry:
    """An entry for a real TEE that is as open as can be, and looks as if it meant a simulated one."""
    floor = DcapFloor(
        allowed_status=frozenset(STATUSES), allowed_advisories="any", min_eval_number=0, max_collateral_age=4000 * DAY
    )
    machine: Platforms = chance.choice(("any", frozenset({"simulated:" + "77" * 32})))
    kind = chance.choice((SgxEntry, TdxEntry, SnpEntry))
    opened: dict[str, Any] = {
        "name": chance.choice(("simulated", "a")),
        "isv_prod_id": "any",
        "min_isv_svn": 0,
        "tcb": floor,
        "min_tee_tcb_svn": bytes(16),
        "min_guest_svn": 0,
        "min_tcb": {"Milan": SnpTcb(bl=0, tee=0, snp=0, ucode=0)},
        "allow_smt": True,
        "require_single_socket": False,
        "signers": frozenset({"vcek", "vlek"}),
        "max_collateral_age": None,
        "unsafe_no_revocation": True,
        "platforms": machine,
    }
    names = [field.name for field in fields(kind)]
    return kind(**{name: opened[name] if name in opened else values(chance) for name in names})


@pytest.mark.slow
def test_simulated_claims_satisfy_no_entry_for_real_tees() -> None:
    chance = random.Random(10_000)
    for _ in range(10_000):
        claims = replace(SIMULATED, measurement=chance.choice(BYTES), svn=chance.randrange(9))
        reference = [real(chance) for _ in range(chance.randrange(4))]
        assert failures(claims, *reference) == ("no entry of the reference names simulated TEEs",)
        own = SimulatedEntry(name="it", measurement=values(chance), min_svn=chance.randrange(9), platforms="any")
        if (own.measurement == "any" or claims.measurement in own.measurement) and claims.svn >= own.min_svn:
            assert appraise(claims, reference=(*reference, own), now=NOW) is own
        else:
            assert all(each.startswith("it: ") for each in failures(claims, *reference, own))
