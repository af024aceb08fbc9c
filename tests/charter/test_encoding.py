"""The form of a charter that an aggregator reads: what has one is told by it, and nothing else is read."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister import tables
from cloister.attest import reference
from cloister.charter.charter import FORMAT, content
from cloister.charter.encoding import ENCODED_BYTES, decode
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from tests.charter.test_charter import RICH, a_base
from tests.charter.test_warnings import SNP
from tests.support.charters import SIMULATED, charter, fingerprint_of, text

TURIN = SNP.replace('"on SNP"', '"on Turin"').replace('["Milan"]', '["Milan", "Turin"]') + (
    "[software.min_tcb.Turin]\nbl = 1\ntee = 1\nsnp = 1\nucode = 255\nfmc = 3\n"
)
TDX = f"""
[[software]]
name = "on TDX"
tee = "tdx"
mr_td = ["{"1d" * 48}"]
{"".join(f'{name} = "any"{chr(10)}' for name in ("rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"))}
mr_config_id = "any"
mr_owner = "any"
mr_owner_config = "any"
allowed_status = ["UpToDate"]
allowed_advisories = []
min_eval_number = 0
max_collateral_age = "12.5 h"
platforms = "any"
"""
CHIP = SNP.replace("unsafe_no_revocation = true", 'max_collateral_age = "1 d"').replace(
    'platforms = "any"', f'platforms = ["chip_id:{"AB" * 64}"]'
)
LISTED = SIMULATED.replace('platforms = "any"', f'platforms = ["simulated:{"0f" * 32}"]')
WRITTEN = (
    RICH,
    text(),
    text(software=LISTED, auditors=["Universit\u00e4t"]),
    text(software=TURIN + TDX),
    text(software=CHIP + TDX, serial=7, supersedes=bytes(32)),
)


def encoded(told: Any, form: str = FORMAT) -> bytes:
    return cbor2.dumps([form, told], canonical=True)


@pytest.mark.parametrize("written", WRITTEN)
def test_what_is_encoded_is_read_and_its_hash_is_the_digest(written: str) -> None:
    agreed = parse_charter(written)
    assert decode(agreed.encoded) == agreed
    assert decode(agreed.encoded).digest == agreed.digest == hashlib.sha256(agreed.encoded).digest()


@given(
    shares=st.integers(2, 9).map(lambda owners: (owners, 1 / owners)),
    clip=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    low=st.floats(-1e300, 0),
    high=st.floats(1e-300, 1e300),
    serial=st.integers(1, (1 << 53) - 1),
    before=st.datetimes(),
    bases=st.lists(st.lists(st.integers(0, 1 << 255), min_size=1, max_size=3), max_size=3),
    home=st.booleans(),
)
def test_every_charter_is_read_as_it_was(
    shares: tuple[int, float],
    clip: float,
    low: float,
    high: float,
    serial: int,
    before: Any,
    bases: list[list[int]],
    home: bool,
) -> None:
    owners, share = shares
    written = text(
        owners=[f"owner {number}" for number in range(owners)],
        serial=serial,
        supersedes=None if serial == 1 else b"\7" * 32,
        floor=str(owners),
        largest_share=repr(min(share * 1.001, 1.0)),
        clip=repr(clip),
        limits=f'[[limits.metrics]]\nname = "loss"\nlow = {low!r}\nhigh = {high!r}\n'
        + "".join(a_base(f'"b{at}"', str([f"{number:064x}" for number in some])) for at, some in enumerate(bases)),
        home_buffers=str(home).lower(),
    ).replace("2026-01-01T00:00:00Z", f"{before.isoformat()}Z")
    try:
        agreed = parse_charter(written)
    except CharterError as fault:
        files = [file for some in bases for file in some]
        assert "not_after" in str(fault) or len(set(files)) < len(files)  # noqa: PT017
        return
    assert decode(agreed.encoded) == agreed


SIMPLE = content(parse_charter(text(noise='{ unit = "owner", multiplier = 1, delta = 1e-5 }', interactive="false")))
TWO = '[[limits.metrics]]\nname = "loss"\nlow = 0\nhigh = 1\n[[limits.metrics]]\nname = "error"\nlow = 0\nhigh = 1\n'


def at(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(told: Any) -> None:
        for step in path[:-1]:
            told = told[step]
        told[path[-1]] = to

    return change


def without(*path: Any) -> Callable[[Any], None]:
    def change(told: Any) -> None:
        for step in path[:-1]:
            told = told[step]
        del told[path[-1]]

    return change


def flipped(*path: Any) -> Callable[[Any], None]:
    def change(told: Any) -> None:
        for step in path:
            told = told[step]
        told.reverse()

    return change


BASES = {
    "simple": content(charter(limits=TWO)),
    "sgx": content(parse_charter(RICH)),
    "snp": content(parse_charter(WRITTEN[4])),
    "turin": content(parse_charter(WRITTEN[3])),
    "platform": content(parse_charter(WRITTEN[2])),
}
BROKEN = {
    "an unknown field": ("simple", at("motto", to="x")),
    "a missing field": ("simple", without("serial")),
    "no reference": ("simple", without("reference")),
    "an unknown field below": ("simple", at("limits", "motto", to=1)),
    "a missing field with a default": ("turin", without("reference", 1, "min_tcb", "Milan", "fmc")),
    "a text for a number": ("simple", at("serial", to="1")),
    "true for 1": ("simple", at("serial", to=True)),
    "a number for true": ("simple", at("limits", "interactive", to=1)),
    "1 for 1.0": ("simple", at("limits", "clip", to=1)),
    "no clip": ("simple", at("limits", "clip", to=0.0)),
    "an endless clip": ("simple", at("limits", "clip", to=float("inf"))),
    "a clip that is no number": ("simple", at("limits", "clip", to=float("nan"))),
    "noise of none": ("simple", at("limits", "noise", to={"unit": "owner", "multiplier": 0.0, "delta": 1e-5})),
    "other noise": ("simple", at("limits", "noise", to={"unit": "row", "multiplier": 1.0, "delta": 1e-5})),
    "a share over 1": ("simple", at("limits", "largest_share", to=1.5)),
    "a share too small": ("simple", at("limits", "largest_share", to=0.25)),
    "a floor of one": ("simple", at("limits", "floor", to=1)),
    "a floor over the owners": ("simple", at("limits", "floor", to=4)),
    "no rounds": ("simple", at("limits", "rounds", to=0)),
    "too many rounds": ("simple", at("limits", "rounds", to=1 << 53)),
    "no examples": ("simple", at("limits", "min_examples", to=0)),
    "a plan of 31 bytes": ("sgx", at("jobs", 0, "plan", to=bytes(31))),
    "jobs without a model": ("sgx", at("limits", "first_model", to=None)),
    "jobs that are not sorted": ("sgx", flipped("jobs")),
    "an optimizer that is none": ("sgx", at("jobs", 0, "optimizer", to=["lion", 0.1])),
    "an optimizer that is not written out": ("sgx", at("jobs", 0, "optimizer", to=["sgd", 0.1])),
    "a momentum out of bounds": ("sgx", at("jobs", 0, "optimizer", to=["sgd", 0.1, 0.0, None, None, 1.0, 0.0, False])),
    "a batch below the charter's": ("sgx", at("jobs", 0, "batch_size", to=31)),
    "a base without files": ("sgx", at("bases", 0, "files", to=[])),
    "a file of 31 bytes": ("sgx", at("bases", 0, "files", 0, to=bytes(31))),
    "a file twice": ("sgx", at("bases", 0, "files", to=[bytes(32)] * 2)),
    "a file of two bases": ("sgx", at("bases", 0, "files", to=[bytes([0xE2]) * 32])),
    "a base whose name is none": ("sgx", at("bases", 0, "name", to="../x")),
    "a base twice": ("sgx", at("bases", 0, "name", to="two")),
    "bases that are not sorted": ("sgx", flipped("bases")),
    "no bases": ("sgx", without("bases")),
    "too many bases": (
        "simple",
        at("bases", to=[{"name": f"b{n:02}", "files": [bytes([n]) * 32]} for n in range(17)]),
    ),
    "too many files of a base": ("sgx", at("bases", 0, "files", to=[n.to_bytes(32) for n in range(1025)])),
    "buffers at home that are clipped": ("sgx", at("limits", "clip_buffers", to=1.0)),
    "a number for buffers at home": ("simple", at("limits", "home_buffers", to=1)),
    "a job whose name is none": ("sgx", at("jobs", 0, "name", to="../x")),
    "metrics that are not sorted": ("simple", flipped("limits", "metrics")),
    "a metric of minus zero": ("simple", at("limits", "metrics", 0, "low", to=-0.0)),
    "a metric without a range": ("simple", at("limits", "metrics", 0, "low", to=1.0)),
    "a metric twice": ("simple", at("limits", "metrics", 0, "name", to="loss")),
    "a metric without a name": ("simple", at("limits", "metrics", 0, "name", to="")),
    "too many metrics": (
        "simple",
        at("limits", "metrics", to=[{"name": f"m{n:02}", "low": 0.0, "high": 1.0} for n in range(65)]),
    ),
    "a name that is none": ("simple", at("name", to="../study")),
    "a serial of 0": ("simple", at("serial", to=0)),
    "a second without a first": ("simple", at("serial", to=2)),
    "a first after another": ("simple", at("supersedes", to=bytes(32))),
    "never valid": ("simple", at("not_after", to=1767225600 * 10**6)),
    "a time that no calendar has": ("simple", at("not_after", to=(1 << 64) - 1)),
    "true for a time": ("simple", at("not_before", to=True)),
    "a time of a text": ("simple", at("not_before", to="2026-01-01T00:00:00Z")),
    "no members": ("simple", at("members", to=[])),
    "members that are not sorted": ("simple", flipped("members")),
    "another role": ("simple", at("members", 0, "role", to="boss")),
    "a key in capitals": ("simple", at("members", 0, "key", to=fingerprint_of("alice").upper())),
    "a key twice": ("simple", at("members", 0, "key", to=fingerprint_of("bob"))),
    "a member in other letters": ("simple", at("members", 0, "name", to="BOB")),
    "a member that is no map": ("simple", at("members", 0, to="alice")),
    "no address": ("simple", at("addresses", to=[])),
    "an address without a port": ("simple", at("addresses", to=["agg.example"])),
    "an address with port 0": ("simple", at("addresses", to=["agg.example:0"])),
    "an address twice": ("simple", at("addresses", to=["agg.example:7443"] * 2)),
    "addresses that are not sorted": ("simple", at("addresses", to=["b.example:1", "a.example:1"])),
    "too many addresses": ("simple", at("addresses", to=[f"a{n:02}.example:1" for n in range(65)])),
    "no software": ("simple", at("reference", to=[])),
    "software of no TEE": ("simple", at("reference", 0, "tee", to="sev")),
    "software of a TEE that is a list": ("simple", at("reference", 0, "tee", to=[])),
    "software without a TEE": ("simple", without("reference", 0, "tee")),
    "software of another TEE": ("simple", at("reference", 0, "tee", to="sgx")),
    "software that is no map": ("simple", at("reference", 0, to=1)),
    "software without a name": ("simple", at("reference", 0, "name", to=" ")),
    "an invisible name": ("simple", at("reference", 0, "name", to="a\u202eb")),
    "a long name": ("simple", at("reference", 0, "name", to="a" * 129)),
    "a simulated TEE beside another": (
        "sgx",
        lambda told: told["reference"].append({**SIMPLE["reference"][0], "name": "simulated"}),
    ),
    "software twice": ("sgx", at("reference", 1, "name", to="on SGX")),
    "software that is not sorted": ("sgx", flipped("reference")),
    "too much software": (
        "simple",
        lambda told: told.update(reference=[{**told["reference"][0], "name": f"s{n:02}"} for n in range(65)]),
    ),
    "a measurement of another length": ("sgx", at("reference", 0, "mr_enclave", to=[bytes(48)])),
    "no measurement": ("sgx", at("reference", 0, "mr_enclave", to=[])),
    "another word for any": ("sgx", at("reference", 0, "mr_enclave", to="all")),
    "a number over 16 bits": ("sgx", at("reference", 0, "isv_prod_id", to=1 << 16)),
    "a number under 0": ("sgx", at("reference", 0, "min_isv_svn", to=-1)),
    "a status that nothing can allow": ("sgx", at("reference", 0, "tcb", "allowed_status", to=["Revoked"])),
    "no status": ("sgx", at("reference", 0, "tcb", "allowed_status", to=[])),
    "an advisory that is none": ("sgx", at("reference", 0, "tcb", "allowed_advisories", to=["INTEL-1\n"])),
    "an advisory and a line": ("sgx", at("reference", 0, "tcb", "allowed_advisories", to=["INTEL-SA-00615\n"])),
    "an evaluation too new": ("sgx", at("reference", 0, "tcb", "min_eval_number", to=(1 << 31) + 1)),
    "collateral of no age": ("sgx", at("reference", 0, "tcb", "max_collateral_age", to=0)),
    "collateral of the past": ("sgx", at("reference", 0, "tcb", "max_collateral_age", to=-1)),
    "collateral too old": ("sgx", at("reference", 0, "tcb", "max_collateral_age", to=3651 * 86400 * 10**6)),
    "collateral of any age": ("sgx", at("reference", 0, "tcb", "max_collateral_age", to=None)),
    "a platform of another TEE": ("sgx", at("reference", 0, "platforms", to=["chip_id:" + "0f" * 64])),
    "a platform of zeros": ("sgx", at("reference", 0, "platforms", to=["ppid:" + "00" * 16])),
    "a platform in capitals": ("sgx", at("reference", 0, "platforms", to=["ppid:" + "0F" * 16])),
    "no platform": ("sgx", at("reference", 0, "platforms", to=[])),
    "a chip of another length": ("snp", at("reference", 0, "platforms", to=["chip_id:" + "0f" * 16])),
    "a simulated platform of another length": ("platform", at("reference", 0, "platforms", to=["simulated:0f"])),
    "no product": ("snp", at("reference", 0, "min_tcb", to={})),
    "a product that is none": ("snp", lambda told: told["reference"][0]["min_tcb"].update(Rome={})),
    "a version over 8 bits": ("snp", at("reference", 0, "min_tcb", "Milan", "bl", to=256)),
    "an fmc where none is": ("snp", at("reference", 0, "min_tcb", "Milan", "fmc", to=1)),
    "no fmc where one is": ("turin", at("reference", 1, "min_tcb", "Turin", "fmc", to=None)),
    "another signer": ("snp", at("reference", 0, "signers", to=["ark"])),
    "no signer": ("snp", at("reference", 0, "signers", to=[])),
    "an age that nobody asks for": ("snp", at("reference", 0, "unsafe_no_revocation", to=True)),
    "no age that somebody asks for": ("snp", at("reference", 0, "max_collateral_age", to=None)),
    "a number over 32 bits": ("snp", at("reference", 0, "min_guest_svn", to=1 << 32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_what_no_file_could_say_is_refused(name: str) -> None:
    base, change = BROKEN[name]
    told = cbor2.loads(encoded(BASES[base]))[1]
    decode(encoded(told))
    change(told)
    with pytest.raises(CharterError, match="cloister charter encode"):
        decode(encoded(told))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        cbor2.dumps(FORMAT),
        encoded(SIMPLE, form="cloister charter 1"),
        encoded(SIMPLE)[:-1],
        encoded(SIMPLE) + b"\0",
        cbor2.dumps([FORMAT, SIMPLE]),  # in the order in which the fields stand
        cbor2.dumps([FORMAT, SIMPLE, 1], canonical=True),
        encoded([SIMPLE]),
        encoded({**SIMPLE, 1: 2}),
        encoded({**SIMPLE, "not_after": cbor2.CBORTag(1, 4000000000)}),
        encoded({**SIMPLE, "limits": cbor2.CBORTag(35, "(a+)+")}),
        text().encode(),
        bytes(ENCODED_BYTES + 1),
    ],
)
def test_what_is_no_encoded_charter_at_all(data: bytes) -> None:
    with pytest.raises(CharterError):
        decode(data)


def test_what_is_told_of_a_fault_is_short_and_printable() -> None:
    for role in ("\x1b[2J", "x" * 100_000):
        told = cbor2.loads(encoded(SIMPLE))[1]
        told["members"][0]["role"] = role
        with pytest.raises(CharterError) as caught:
            decode(encoded(told))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


PLAIN = st.recursive(
    st.none()
    | st.just(cbor2.undefined)
    | st.just(cbor2.CBORSimpleValue(99))
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=8,
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [leaf for step, item in inner for leaf in leaves(item, (*path, step))]


@pytest.mark.slow
@given(data=st.data(), base=st.sampled_from(sorted(BASES)))
def test_a_charter_with_any_other_value_is_refused_or_what_it_says(data: st.DataObject, base: str) -> None:
    told = cbor2.loads(encoded(BASES[base]))[1]
    at(*data.draw(st.sampled_from(leaves(told))), to=data.draw(PLAIN))(told)
    sent = encoded(told)
    with contextlib.suppress(CharterError):  # and nothing else comes
        assert decode(sent).encoded == sent


@given(data=st.data(), base=st.sampled_from(sorted(BASES)))
def test_damaged_bytes_are_refused(data: st.DataObject, base: str) -> None:
    sent = bytearray(encoded(BASES[base]))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CharterError):  # and nothing else comes
        assert decode(bytes(sent)).encoded == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(sent: bytes) -> None:
    with pytest.raises(CharterError):
        decode(sent)


def test_lists_are_as_long_in_either_form() -> None:
    assert reference.LIST_ITEMS == tables.LIST_ITEMS
