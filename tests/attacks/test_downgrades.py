"""Attack: show genuine evidence of something weaker: a debugger attached, an old microcode, no TEE at all.

The guests and enclaves are of the tests' own making, genuine under roots of their own that the verifier is told of.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloister.attest.evidence import Evidence
from cloister.attest.tcb import SnpTcb
from cloister.attest.verifier import MAKERS
from cloister.errors import AttestationError, EvidenceError, NotGenuineError, UnacceptableError
from tests.support.attested import ATTESTER, Lying, Study, answering, claiming
from tests.support.tee import DOMAIN, ENCLAVE, GUEST, MILAN, Enclave, Guest, demanding, demanding_of
from tests.vectors.attest import make_dcap
from tests.vectors.attest.make_dcap import DEBUG_ENCLAVE, SGX, TDX, Level, Recipe
from tests.vectors.attest.make_snp import NOW, TCB, Platform


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = Study(tmp_path_factory.mktemp("study"))
    found.charter = found.agree(now=NOW)
    return found


def refusal(study: Study, attester: Any, **demanded: Any) -> tuple[str, ...]:
    with study.aggregator(study.instance(attester=attester)) as running, pytest.raises(UnacceptableError) as caught:
        study.attest(running.at, **{"clock": lambda: NOW, **demanded})
    return caught.value.failures


def test_the_guest_that_the_others_are_weaker_than(study: Study) -> None:
    own = study.instance(attester=Guest())
    with study.aggregator(own) as running, study.attest(running.at, **demanding()) as attested:
        assert attested.claims.tee == "snp"
        assert attested.entry == GUEST


def test_a_guest_under_a_debugger(study: Study) -> None:
    """Its policy lets the host read its memory (bit 19). No key of any reference can allow that."""
    debugged = Guest({0x08: (1 << 19 | 1 << 17 | 1 << 16).to_bytes(8, "little")})
    everything: Any = {
        "measurement": "any",
        "min_guest_svn": 0,
        "min_tcb": {"Milan": SnpTcb(bl=0, tee=0, snp=0, ucode=0)},
    }
    for demanded in (demanding(), demanding(**everything)):
        (failure,) = refusal(study, debugged, **demanded)
        assert "debug" in failure


def test_a_simulated_tee_under_a_debugger(study: Study) -> None:
    (failure,) = refusal(study, replace(ATTESTER, debug=True))
    assert "debug" in failure


COMPONENTS = ("bl", "tee", "snp", "ucode")


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_chip_whose_firmware_is_old(study: Study, component: str) -> None:
    """Its report and AMD's certificate say so alike: genuine, and below the floor."""
    old = Platform(tcb={**TCB, component: TCB[component] - 1})
    found = refusal(study, Guest(platform=old), **demanding())
    assert len(found) == 3  # committed, reported, and when the guest was launched
    assert all(f"has {component} {TCB[component] - 1}, below" in failure for failure in found), found


@pytest.mark.slow
@pytest.mark.parametrize("field", [0x1E0, 0x1F0], ids=["committed", "launch"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_firmware_that_may_be_rolled_back_or_was_new_only_later(study: Study, component: str, field: int) -> None:
    stale = Guest({field: MILAN.tcb_version(**{component: TCB[component] - 1})})
    (failure,) = refusal(study, stale, **demanding())
    assert f"has {component} {TCB[component] - 1}, below" in failure


def test_a_report_that_names_another_tcb_than_its_certificate(study: Study) -> None:
    """The key that signs is derived from the TCB, so one of the two is a lie."""
    lying = Guest({0x180: MILAN.tcb_version(ucode=TCB["ucode"] - 1)})
    with study.aggregator(study.instance(attester=lying)) as running, pytest.raises(NotGenuineError):
        study.attest(running.at, **demanding())


def test_the_same_platform_is_accepted_where_the_floor_is_lower(study: Study) -> None:
    """It is the floor that refuses it, and nothing else."""
    stale = Guest({0x1F0: MILAN.tcb_version(ucode=218)})
    lower: Any = {"min_tcb": {"Milan": SnpTcb(bl=4, tee=1, snp=24, ucode=218)}}
    with study.aggregator(study.instance(attester=stale)) as running:
        study.attest(running.at, **demanding(**lower)).close()
    (failure,) = refusal(study, stale, **demanding())
    assert "ucode" in failure


def test_software_with_an_older_security_version(study: Study) -> None:
    (failure,) = refusal(study, Guest({0x04: (6).to_bytes(4, "little")}), **demanding())
    assert "svn" in failure
    (failure,) = refusal(study, replace(ATTESTER, svn=0))
    assert "svn is 0, below 1" in failure


def test_a_report_for_something_less_privileged_than_the_kernel(study: Study) -> None:
    """VMPL 1 to 3: what runs there can ask for reports too, and is not what was measured."""
    (failure,) = refusal(study, Guest({0x30: (1).to_bytes(4, "little")}), **demanding())
    assert "vmpl" in failure.lower()


def test_a_guest_whose_root_nobody_named(study: Study) -> None:
    with study.aggregator(study.instance(attester=Guest())) as running, pytest.raises(NotGenuineError):
        study.attest(running.at, **(demanding() | {"unsafe_roots": MAKERS}))


# SGX and TDX


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same, at the time of the enclaves' collateral."""
    found = Study(tmp_path_factory.mktemp("later"))
    found.charter = found.agree(now=make_dcap.NOW)
    return found


@pytest.mark.parametrize("recipe", [SGX, TDX], ids=["sgx", "tdx"])
def test_the_enclaves_that_the_others_are_weaker_than(later: Study, recipe: Recipe) -> None:
    own = later.instance(attester=Enclave(recipe))
    with later.aggregator(own) as running, later.attest(running.at, **demanding_of(recipe)) as attested:
        assert attested.claims.tee == recipe.tee
        assert attested.entry == (ENCLAVE if recipe is SGX else DOMAIN)


WEAKER: dict[str, tuple[Recipe, str]] = {
    "a debug enclave": (replace(SGX, attributes=DEBUG_ENCLAVE), "debug"),
    "a debug trust domain": (replace(TDX, td_attributes=b"\x01\0\0\x10\0\0\0\0"), "debug"),
    "one that can be migrated": (replace(TDX, td_attributes=b"\0\0\0\x30\0\0\0\0"), "migratable"),
    "an old platform": (replace(SGX, cpu_svn=b"\x02" * 16), "OutOfDate"),
    "an old platform of a trust domain": (replace(TDX, cpu_svn=b"\x02" * 16), "OutOfDate"),
    "a platform whose level was revoked": (replace(SGX, tcb_levels=(Level(status="Revoked"),)), "Revoked"),
    "a platform below every level": (replace(SGX, cpu_svn=bytes(16)), "below every level"),
    "an old quoting enclave": (replace(SGX, qe_svn=6), "OutOfDate"),
    "an advisory that nobody agreed to": (replace(SGX, tcb_levels=(Level(advisories=("INTEL-SA-9",)),)), "INTEL-SA-9"),
    "collateral of an earlier evaluation": (replace(SGX, tcb_eval=19, qe_eval=19), "19"),
    "older software": (replace(SGX, isv_svn=2), "svn"),
    "other software": (replace(SGX, mr_enclave=bytes(32)), "mr_enclave"),
    "another trust domain": (replace(TDX, mr_td=bytes(48)), "mr_td"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "text"), WEAKER.values(), ids=WEAKER)
def test_an_enclave_that_is_weaker(later: Study, recipe: Recipe, text: str) -> None:
    found = refusal(later, Enclave(recipe), **demanding_of(recipe))
    assert any(text in failure for failure in found), found


def test_an_enclave_whose_root_nobody_named(later: Study) -> None:
    with later.aggregator(later.instance(attester=Enclave(SGX))) as running, pytest.raises(AttestationError) as caught:
        later.attest(running.at, **(demanding_of(SGX) | {"unsafe_roots": MAKERS}))
    assert not isinstance(caught.value, UnacceptableError)


def test_an_enclave_that_is_called_a_trust_domain(later: Study) -> None:
    labelled = Lying(Enclave(SGX), lambda evidence: Evidence(tee="tdx", quote=evidence.quote))
    own = later.instance(attester=labelled)
    with answering(own, claiming(own, tee="tdx")) as at, pytest.raises(AttestationError):
        later.attest(at, **demanding_of(SGX))


# To a simulated TEE


def test_a_simulated_tee_where_a_real_one_was_agreed(study: Study) -> None:
    """Also where the verifier's own configuration would take one."""
    for accepted in (True, False):
        found = refusal(study, ATTESTER, **(demanding() | {"accept_simulated": accepted}))
        assert "no entry of the reference names simulated TEEs" in found[-1]
        assert len(found) == (1 if accepted else 2)


def test_a_simulated_tee_that_nobody_asked_for(study: Study) -> None:
    """Also where the charter names one."""
    assert refusal(study, ATTESTER, accept_simulated=False) == (
        "a simulated TEE proves nothing, and is not accepted here unless that is asked for (accept_simulated=True,"
        " --accept-simulated, or accept_simulated = true beside the charter in node.toml)",
    )


def test_simulated_evidence_that_is_called_real(study: Study) -> None:
    """By the transcript, by the evidence, and by both."""
    labelled = Lying(ATTESTER, lambda evidence: Evidence(tee="snp", quote=evidence.quote))
    own = study.instance()
    with answering(own, claiming(own, tee="snp")) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at, **demanding())
    assert "its proof calls one kind of TEE what the evidence calls another" in caught.value.failures
    other = study.instance(attester=labelled)
    with answering(other, claiming(other)) as at, pytest.raises(UnacceptableError, match="one kind of TEE what"):
        study.attest(at, **demanding())
    with answering(other, claiming(other, tee="snp")) as at, pytest.raises(EvidenceError):
        study.attest(at, **demanding())


def test_a_real_report_that_is_called_simulated(study: Study) -> None:
    labelled = Lying(Guest(), lambda evidence: Evidence(tee="simulated", quote=evidence.quote))
    own = study.instance(attester=labelled)
    with answering(own, claiming(own, tee="simulated")) as at, pytest.raises(AttestationError):
        study.attest(at, clock=lambda: NOW)
