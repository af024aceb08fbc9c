"""Whether a charter lists the software that runs here, told from its own quote or report."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.evidence import Evidence, Tee
from cloister.attest.listed import check_listed
from cloister.attest.reference import Reference
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from tests.support import charters
from tests.support.tee import Enclave, Guest
from tests.vectors.attest.make_dcap import Recipe

LISTED, OTHER = b"\x5a" * 48, b"\x5b" * 48


def placed(tee: Tee, at: int, value: bytes, *, head: bytes = b"") -> Evidence:
    """Evidence that says this there, and nothing else."""
    quote = bytearray(head.ljust(1200, b"\0"))
    quote[at : at + len(value)] = value
    return Evidence(tee=tee, quote=bytes(quote))


def reference(software: str = charters.SIMULATED) -> Reference:
    return parse_charter(charters.text(software=software)).reference


def test_software_that_is_listed_and_software_that_is_not() -> None:
    for measurement, listed in ((LISTED, True), (OTHER, False)):
        evidence = SimulatedAttester(measurement=measurement, platform=bytes(32)).evidence(bytes(64))
        if listed:
            check_listed(evidence, reference=reference())
            continue
        with pytest.raises(CharterError, match=f"does not list this software.*simulated.*measurement {OTHER.hex()}"):
            check_listed(evidence, reference=reference())


def test_an_entry_of_another_kind_of_tee_lists_nothing() -> None:
    evidence = SimulatedAttester(measurement=LISTED, platform=bytes(32)).evidence(bytes(64))
    with pytest.raises(CharterError, match="as a simulated TEE"):
        check_listed(evidence, reference=reference(charters.SGX))


def test_an_enclave_is_found_where_its_quote_has_it() -> None:
    check_listed(placed("sgx", 112, b"\x1e" * 32), reference=reference(charters.SGX))
    with pytest.raises(CharterError, match="mr_enclave 00"):
        check_listed(placed("sgx", 144, b"\x1e" * 32), reference=reference(charters.SGX))


def test_a_guest_is_found_where_its_report_has_it() -> None:
    found = Guest().evidence(bytes(64))
    for listed in (found.quote[0x90:0xC0], OTHER):
        if listed == OTHER:
            with pytest.raises(CharterError, match="as a snp TEE"):
                check_listed(found, reference=one("snp", measurement=listed))
        else:
            check_listed(found, reference=one("snp", measurement=listed))


@pytest.mark.parametrize("version", [4, 5])
def test_a_trust_domain_is_found_where_its_quote_has_it(version: int) -> None:
    recipe = replace(Recipe(tee="tdx"), version=version)
    found = Enclave(recipe).evidence(bytes(64))
    check_listed(found, reference=one("tdx", mr_td=recipe.mr_td))
    with pytest.raises(CharterError, match=f"mr_td {recipe.mr_td.hex()}"):
        check_listed(found, reference=one("tdx", mr_td=OTHER))


def one(tee: Tee, **named: bytes) -> Any:
    """A reference of one entry, as far as it names software."""
    return (SimpleNamespace(tee=tee, **{name: frozenset({value}) for name, value in named.items()}),)
