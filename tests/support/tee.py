"""Guests and enclaves of the tests' own making: TEEs that are real in all but their roots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, Final

from cloister.attest.dcap.collateral import SnpCollateral
from cloister.attest.evidence import Evidence, Tee
from cloister.attest.reference import DcapFloor, SgxEntry, SnpEntry, TdxEntry
from cloister.attest.tcb import SnpTcb
from cloister.attest.verifier import Roots
from tests.vectors.attest import make_dcap
from tests.vectors.attest.make_dcap import SGX, Recipe, build
from tests.vectors.attest.make_snp import NOW, Platform

MILAN: Final = Platform()
GUEST: Final = SnpEntry(
    name="guest",
    measurement=frozenset({b"\xa1" * 48}),
    host_data="any",
    id_key_digest="any",
    author_key_digest="any",
    min_guest_svn=7,
    min_tcb={"Milan": SnpTcb(bl=4, tee=1, snp=24, ucode=219)},
    allow_smt=True,
    require_single_socket=False,
    signers=frozenset({"vcek"}),
    max_collateral_age=None,
    unsafe_no_revocation=True,
    platforms="any",
)
"""What the guest of ``Guest()`` is, with the TCB that it has as the floor."""


class Guest:
    """An attester in such a guest. ``patches``: bytes of its report, by their offsets, that are otherwise."""

    tee: ClassVar[Tee] = "snp"

    def __init__(self, patches: Mapping[int, bytes] | None = None, *, platform: Platform = MILAN) -> None:
        self._patches = dict(patches or {})
        self._platform = platform
        self._chain = (platform.vek(), platform.ask(), platform.ark())

    def evidence(self, report_data: bytes) -> Evidence:
        report = self._platform.report({0x50: report_data, **self._patches})
        return Evidence(tee=self.tee, quote=report, endorsements=self._chain)


def demanding(**changed: Any) -> dict[str, Any]:
    """Demands that the guest meets; ``changed`` are fields of its entry in the reference."""
    return {
        "reference": (replace(GUEST, **changed),),
        "accept_simulated": False,
        "unsafe_roots": Roots(dcap=None, snp=MILAN.roots),
        "collateral": lambda evidence, now: SnpCollateral(vek=None, ask=None, ark=None, crl=None),
        "clock": lambda: NOW,
    }


FLOOR: Final = DcapFloor(
    allowed_status=frozenset({"UpToDate"}),
    allowed_advisories=frozenset(),
    min_eval_number=20,
    max_collateral_age=timedelta(days=30),
)
ENCLAVE: Final = SgxEntry(
    name="enclave",
    mr_enclave=frozenset({SGX.mr_enclave}),
    mr_signer="any",
    isv_prod_id=SGX.isv_prod_id,
    min_isv_svn=SGX.isv_svn,
    tcb=FLOOR,
    platforms="any",
)
"""What the enclave of ``Enclave(SGX)`` is."""

DOMAIN: Final = TdxEntry(
    name="domain",
    mr_td=frozenset({SGX.mr_td}),
    rt_mr0="any",
    rt_mr1="any",
    rt_mr2="any",
    rt_mr3="any",
    mr_config_id="any",
    mr_owner="any",
    mr_owner_config="any",
    min_tee_tcb_svn=bytes(16),
    tcb=FLOOR,
    platforms="any",
)
"""What the trust domain of ``Enclave(TDX)`` is."""


class Enclave:
    """An attester in an SGX enclave or a TDX trust domain, on a platform as the recipe has it."""

    def __init__(self, recipe: Recipe) -> None:
        self.tee: Tee = recipe.tee
        self._recipe = recipe

    def evidence(self, report_data: bytes) -> Evidence:
        return Evidence(tee=self.tee, quote=build(replace(self._recipe, report_data=report_data)).quote)


def demanding_of(recipe: Recipe) -> dict[str, Any]:
    """Demands that an enclave and a trust domain meet, with the collateral that is published for the recipe."""
    made = build(recipe)
    return {
        "reference": (ENCLAVE, DOMAIN),
        "accept_simulated": False,
        "unsafe_roots": Roots(dcap=made.root, snp={}),
        "collateral": lambda evidence, now: made.collateral,
        "clock": lambda: make_dcap.NOW,
    }
