"""Evidence of our own making, for what no one publishes: each thing that can be wrong has its refusal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.attest.claims import SnpClaims
from cloister.attest.dcap.collateral import SnpCollateral
from cloister.attest.snp import verify
from cloister.attest.snp.report import Cpuid
from cloister.attest.tcb import SnpTcb
from cloister.errors import CollateralError, EvidenceError, NotGenuineError
from tests.vectors.attest import make_snp as make
from tests.vectors.attest.make_snp import END, NOW, Extension, Platform

PLATFORMS = [
    Platform(product=product, kind=kind) for product in ("Milan", "Genoa", "Turin") for kind in ("vcek", "vlek")
]
MILAN = Platform()
TURIN = Platform(product="Turin")
PROVIDER = Platform(kind="vlek")


def name(platform: Platform) -> str:
    return f"{platform.product} {platform.kind}"


def judge(
    platform: Platform,
    report: bytes | None = None,
    *,
    vek: bytes | None = None,
    ask: bytes | None = None,
    ark: bytes | None = None,
    more: Sequence[bytes] = (),
    crl: bytes | None = None,
    now: datetime = NOW,
) -> SnpClaims:
    """Authenticate a report of this platform, with whatever is given in place of what belongs there."""
    chain = (vek or platform.vek(), ask or platform.ask(), ark or platform.ark(), *more)
    collateral = SnpCollateral(vek=None, ask=None, ark=None, crl=crl) if crl else None
    return verify.authenticate(
        report or platform.report(), endorsements=chain, collateral=collateral, now=now, roots=platform.roots
    )


def policy(bits: int) -> dict[int, bytes]:
    return {0x08: (1 << 17 | bits).to_bytes(8, "little")}


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS, ids=name)
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_evidence_of_our_own_is_genuine_under_its_own_root(platform, version):
    claims = judge(platform, platform.report(version=version), crl=platform.crl())
    levels = {one: platform.tcb[one] for one in platform.components}
    assert (claims.product, claims.signer) == (platform.product, platform.kind)
    assert claims.reported == claims.committed == claims.launch == claims.current == SnpTcb(**levels)
    assert claims.chip_id == platform.hwid.ljust(64, b"\0")
    assert claims.csp_id == ("CN=cloud.example" if platform.kind == "vlek" else None)
    assert (claims.crl_issued, claims.crl_expires) == (make.BEGIN, END)
    assert (claims.guest_svn, claims.host_data, claims.smt) == (7, b"\xa2" * 32, True)
    assert (claims.id_key_digest, claims.author_key_digest) == (b"\xa3" * 48, b"\xa4" * 48)


def test_a_standard_library_reads_what_we_make():
    root = x509.load_der_x509_certificate(MILAN.ark())
    root.verify_directly_issued_by(root)
    x509.load_der_x509_certificate(MILAN.ask()).verify_directly_issued_by(root)
    revoked = x509.load_der_x509_crl(MILAN.crl(revoked=(0x10001,)))
    assert revoked.is_signature_valid(root.public_key())
    assert revoked.get_revoked_certificate_by_serial_number(0x10001) is not None


def test_evidence_of_our_own_is_not_amds():
    with pytest.raises(NotGenuineError, match="not the one that is pinned"):
        verify.authenticate(
            MILAN.report(), endorsements=(MILAN.vek(), MILAN.ask(), MILAN.ark()), collateral=None, now=NOW
        )


# --- Genuine, and for the reference to judge -------------------------------------------------------------------------


def test_what_a_reference_judges_is_claimed():
    for bits, claim in {18: "migratable", 19: "debug", 16: "smt", 20: "single_socket"}.items():
        claims = judge(MILAN, MILAN.report(policy(1 << bits)))
        assert getattr(claims, claim)
        others = {"migratable", "debug", "smt", "single_socket"} - {claim}
        assert not any(getattr(claims, other) for other in others)
    assert judge(MILAN, MILAN.report({0x30: (1).to_bytes(4, "little")})).vmpl == 1
    assert judge(MILAN, MILAN.report({0x40: b"\xff" * 8})).platform_info == (1 << 64) - 1


@pytest.mark.slow
@pytest.mark.parametrize(("field", "offset"), [("committed", 0x1E0), ("launch", 0x1F0), ("current", 0x38)])
@pytest.mark.parametrize("platform", [MILAN, TURIN], ids=name)
def test_each_component_of_each_tcb_is_its_own_claim(platform, field, offset):
    for one in platform.components:
        claims = judge(platform, platform.report({offset: platform.tcb_version(**{one: 200})}))
        assert getattr(claims, field) == SnpTcb(**{**{n: platform.tcb[n] for n in platform.components}, one: 200})
        assert getattr(claims.reported, one) == platform.tcb[one]


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS, ids=name)
def test_a_masked_chip_has_no_id(platform):
    assert judge(platform, platform.report({0x1A0: bytes(64)})).chip_id is None


def test_the_other_half_of_a_signature_says_the_same():
    report = MILAN.report()
    s = int.from_bytes(report[0x2E8:0x330], "little")
    other = report[:0x2E8] + (make.P384_ORDER - s).to_bytes(72, "little") + report[0x330:]
    assert judge(MILAN, other) == judge(MILAN, report)


def test_of_several_certificates_the_one_that_fits_is_taken():
    older = MILAN.vek(extensions=MILAN.vek_extensions(tcb={**make.TCB, "snp": 8}))
    assert judge(MILAN, vek=older, more=(MILAN.vek(),)) == judge(MILAN)


# --- Not a report ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "version"),
    [
        *(({at: b"\1"}, 3) for at in (0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x29F)),
        *(({at: b"\1"}, 2) for at in (0x188, 0x18A, 0x18B)),
        *(({at: b"\1"}, 5) for at in (0x208, 0x29F)),
        ({0x00: b"\1"}, 3),
        ({0x00: b"\6"}, 3),
        ({0x34: b"\2"}, 3),
        ({0x48: b"\x20"}, 3),
        ({0x08: bytes(8)}, 3),
        (policy(1 << 26), 3),
        (policy(1 << 63), 3),
    ],
)
def test_a_report_in_another_form_is_none(patch, version):
    with pytest.raises(EvidenceError):
        judge(MILAN, MILAN.report(patch, version=version))


@pytest.mark.parametrize("size", [0, 1, 0x2A0, 0x49F, 0x4A1, 0x940])
def test_a_report_of_another_length_is_none(size):
    with pytest.raises(EvidenceError, match="1184 bytes"):
        judge(MILAN, (MILAN.report() * 2)[:size] or b"\0")


def test_every_fault_of_form_is_named():
    with pytest.raises(EvidenceError) as refused:
        judge(MILAN, MILAN.report({0x34: b"\2", 0x4C: b"\1", 0x1EB: b"\1", 0x08: bytes(8)}))
    assert str(refused.value).count(";") == 3


def test_the_signatures_tail_is_zero():
    for at in (0x330, 0x49F):
        report = bytearray(MILAN.report())
        report[at] = 1
        with pytest.raises(EvidenceError, match="0x330 to 0x4a0"):
            judge(MILAN, bytes(report))


# --- Report and certificate that do not belong together --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS, ids=name)
def test_each_spl_must_be_the_reported_one(platform):
    for one in platform.components:
        for change in (-1, 1):
            levels = {**platform.tcb, one: platform.tcb[one] + change}
            with pytest.raises(NotGenuineError, match=f"reported_tcb's {one} is"):
                judge(platform, vek=platform.vek(extensions=platform.vek_extensions(tcb=levels)))
    with pytest.raises(NotGenuineError, match="the certificate is for None"):
        judge(platform, vek=platform.vek(extensions=platform.vek_extensions()[:1] + platform.vek_extensions()[2:]))


def test_another_chips_certificate():
    other = bytes(reversed(MILAN.chip_id))
    with pytest.raises(NotGenuineError, match="chip_id is not the chip"):
        judge(MILAN, vek=MILAN.vek(extensions=MILAN.vek_extensions(hwid=other)))
    with pytest.raises(NotGenuineError, match="does not name a chip of a Milan"):
        judge(MILAN, vek=MILAN.vek(extensions=MILAN.vek_extensions(hwid=other[:8])))
    with pytest.raises(NotGenuineError, match="chip_id is not the chip"):
        judge(TURIN, TURIN.report({0x1A8: b"\1"}))
    with pytest.raises(NotGenuineError, match="does not name a chip of a Turin"):
        judge(TURIN, vek=TURIN.vek(extensions=TURIN.vek_extensions(hwid=TURIN.chip_id)))
    with pytest.raises(NotGenuineError, match="does not name a chip"):
        judge(MILAN, vek=MILAN.vek(extensions=MILAN.vek_extensions()[:-1]))


def test_a_vlek_names_a_provider_and_no_chip():
    extensions = PROVIDER.vek_extensions()
    for wrong in (extensions[:-1], (*extensions, Extension(make.amd(4), PROVIDER.chip_id))):
        with pytest.raises(NotGenuineError, match="does not name a provider, or names a chip"):
            judge(PROVIDER, vek=PROVIDER.vek(extensions=wrong))


@pytest.mark.parametrize("signer", [1, 2, 7])
def test_the_report_must_say_what_signed_it(signer):
    with pytest.raises(NotGenuineError, match="the certificate is of SEV-VCEK"):
        judge(MILAN, MILAN.report({0x48: bytes([signer << 2])}))


def test_a_vlek_is_no_vcek():
    with pytest.raises(NotGenuineError, match=r"says that SEV-VCEK signed it, and the certificate is of SEV-VLEK"):
        judge(PROVIDER, PROVIDER.report({0x48: b"\0"}))
    key = make.ec_key("vlek")
    with pytest.raises(NotGenuineError, match="the issuer of SEV-VCEK is 'SEV-VLEK-Milan'"):
        judge(MILAN, MILAN.report(key=key), vek=MILAN.vek(key=key, issuer="SEV-VLEK-Milan", signer="SEV-VLEK-Milan"))


@pytest.mark.parametrize("product", ["Genoa-B1", "Turin", "Milano", ""])
def test_a_certificate_for_another_product(product):
    with pytest.raises(NotGenuineError, match="the report is of a Milan"):
        judge(MILAN, vek=MILAN.vek(extensions=MILAN.vek_extensions(product=product or "-B0")))


@pytest.mark.parametrize("product", ["Genoa", "Turin"])
def test_a_chip_of_another_product(product):
    with pytest.raises(NotGenuineError, match=f"the report is of a {product}") as refused:
        judge(MILAN, MILAN.report({0x188: make.CPUID[product]}))
    assert f"the issuer of SEV-VCEK is 'SEV-Milan', not SEV-{product}" in str(refused.value)


def test_a_processor_that_is_not_known():
    with pytest.raises(NotGenuineError, match="not known here"):
        judge(MILAN, MILAN.report({0x188: b"\x1a\x50\x00"}))
    with pytest.raises(NotGenuineError, match="not known here"):
        judge(MILAN, MILAN.report(version=2), vek=MILAN.vek(extensions=MILAN.vek_extensions(product="Venice-A0")))


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x00, "Milan"),
        (0x19, 0x0F, "Milan"),
        (0x19, 0x10, "Genoa"),
        (0x19, 0x1F, "Genoa"),
        (0x19, 0x20, None),
        (0x19, 0xA0, "Genoa"),
        (0x19, 0xAF, "Genoa"),
        (0x19, 0xB0, None),
        (0x1A, 0x00, "Turin"),
        (0x1A, 0x11, "Turin"),
        (0x1A, 0x12, None),
        (0x17, 0x01, None),
    ],
)
def test_a_product_goes_by_family_and_model(family, model, product):
    assert Cpuid(family, model, 0).product == product


def test_siena_has_genoas_keys():
    genoa = Platform(product="Genoa")
    siena = genoa.report({0x188: b"\x19\xa0\x02"})
    assert judge(genoa, siena, vek=genoa.vek(extensions=genoa.vek_extensions(product="Siena-A0"))).product == "Genoa"


def test_a_tcb_in_another_products_layout():
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):
        with pytest.raises(NotGenuineError, match="has bits set that mean nothing on a Milan"):
            judge(MILAN, MILAN.report({offset + 2: b"\1"}))


def test_every_mismatch_is_named():
    levels = {**make.TCB, "bl": 0, "ucode": 0}
    vek = MILAN.vek(extensions=MILAN.vek_extensions(product="Genoa", tcb=levels, hwid=bytes(64)))
    with pytest.raises(NotGenuineError) as refused:
        judge(MILAN, MILAN.report(key=make.ec_key("stranger")), vek=vek)
    for part in ("of a Milan", "reported_tcb's bl", "reported_tcb's ucode", "chip_id", "not signed by this SEV-VCEK"):
        assert part in str(refused.value)


# --- Signatures and chains -------------------------------------------------------------------------------------------


def test_a_report_that_another_key_signed():
    with pytest.raises(NotGenuineError, match="not signed by this SEV-VCEK"):
        judge(MILAN, MILAN.report(key=make.ec_key("stranger")))


def test_numbers_that_are_no_signature():
    report = MILAN.report()
    r = int.from_bytes(report[0x2A0:0x2E8], "little")
    for wrong in (0, make.P384_ORDER, r + make.P384_ORDER, (1 << 576) - 1):
        with pytest.raises(NotGenuineError, match="not signed by this SEV-VCEK"):
            judge(MILAN, report[:0x2A0] + wrong.to_bytes(72, "little") + report[0x2E8:])


def test_a_host_that_masks_its_key_signs_nothing():
    masked = {0x48: b"\2"}
    with pytest.raises(NotGenuineError, match="masks its chip's key"):
        judge(MILAN, bytes(MILAN.unsigned(masked)) + bytes(0x200))
    for other in (bytes(MILAN.unsigned()) + bytes(0x200), MILAN.report(masked, key=make.ec_key("stranger"))):
        with pytest.raises(NotGenuineError, match="not signed by this SEV-VCEK"):
            judge(MILAN, other)


def test_a_chain_to_another_root():
    with pytest.raises(NotGenuineError, match="not the one that is pinned"):
        judge(MILAN, ark=MILAN.ark(key="impostor"), ask=MILAN.ask(signer="impostor"))
    with pytest.raises(NotGenuineError, match="not the one that is pinned"):
        verify.authenticate(
            MILAN.report(), endorsements=(MILAN.vek(), MILAN.ask(), MILAN.ark()), collateral=None, now=NOW, roots={}
        )


def test_the_roots_key_in_a_certificate_of_someone_elses():
    ark = make.certificate(
        subject="ARK-Milan",
        issuer="ARK-Milan",
        key=make.rsa_key("ARK-Milan"),
        signer=make.rsa_key("impostor"),
        serial=1,
        extensions=(make.CA, make.CERT_AND_CRL_SIGN),
    )
    with pytest.raises(NotGenuineError, match="ARK-Milan is not signed by ARK-Milan"):
        judge(MILAN, ark=ark)


def test_a_broken_link():
    with pytest.raises(NotGenuineError, match="SEV-Milan is not signed by ARK-Milan"):
        judge(MILAN, ask=MILAN.ask(signer="impostor"))
    with pytest.raises(NotGenuineError, match="SEV-Milan, which names 'ARK-Genoa' as its issuer"):
        judge(MILAN, ask=MILAN.ask(issuer="ARK-Genoa"))
    with pytest.raises(NotGenuineError, match="SEV-VCEK is not signed by SEV-Milan"):
        judge(MILAN, vek=MILAN.vek(signer="impostor"))


@pytest.mark.parametrize(
    "extensions", [(make.CERT_SIGN,), (make.NO_CA, make.CERT_SIGN), (make.CA,), (make.CA, make.CRL_SIGN)]
)
def test_only_a_ca_certifies(extensions):
    with pytest.raises(NotGenuineError, match="SEV-Milan may not certify SEV-VCEK"):
        judge(MILAN, ask=MILAN.ask(extensions=extensions))
    with pytest.raises(NotGenuineError, match="ARK-Milan may not certify"):
        judge(MILAN, ark=MILAN.ark(extensions=extensions))


def test_a_key_on_another_curve_or_of_another_kind():
    curve = make.ec_key("short", ec.SECP256R1)
    with pytest.raises(NotGenuineError, match="not on P-384"):
        judge(MILAN, MILAN.report(key=curve), vek=MILAN.vek(key=curve))
    with pytest.raises(NotGenuineError, match="not on P-384"):
        judge(MILAN, vek=MILAN.vek(key=make.rsa_key("vcek")))


def test_a_vcek_certifies_no_other():
    """A member of the chain in another's place: the chip's own certificate as ASK."""
    with pytest.raises(CollateralError, match="SEV-Milan is missing"):
        judge(MILAN, ask=MILAN.vek())


@pytest.mark.parametrize(
    "wrong",
    [
        MILAN.vek(extensions=(*MILAN.vek_extensions(), Extension(b"\x2a\x03", b"", critical=True))),
        MILAN.vek(extensions=MILAN.vek_extensions() * 2),
        MILAN.vek() + b"\0",
        MILAN.vek()[:-1],
        b"\x30\x00",
        b"",
    ],
)
def test_a_certificate_that_cannot_be_read(wrong):
    with pytest.raises(EvidenceError):
        judge(MILAN, more=(wrong,))
    with pytest.raises(CollateralError, match="cannot be read"):
        verify.authenticate(
            MILAN.report(),
            endorsements=(),
            collateral=SnpCollateral(vek=wrong, ask=None, ark=None, crl=None),
            now=NOW,
        )


def test_an_algorithm_that_amd_does_not_use():
    with pytest.raises(EvidenceError, match="RSASSA-PSS"):
        judge(MILAN, vek=make.sign(make.tlv(0x30), make.rsa_key("SEV-Milan"), make.RSA_SHA256))


def test_a_missing_root_is_never_assumed():
    with pytest.raises(CollateralError, match="ARK-Milan is missing"):
        verify.authenticate(
            MILAN.report(), endorsements=(MILAN.vek(), MILAN.ask()), collateral=None, now=NOW, roots=MILAN.roots
        )


# --- Time and revocation ---------------------------------------------------------------------------------------------


def test_an_expired_certificate_leaves_it_undecided():
    early, late = NOW - timedelta(days=1), NOW + timedelta(days=1)
    for chain in ({"vek": MILAN.vek(end=early)}, {"ask": MILAN.ask(end=early)}):
        with pytest.raises(CollateralError, match="no longer valid"):
            judge(MILAN, **chain)
    for chain in ({"vek": MILAN.vek(begin=late)}, {"ask": MILAN.ask(begin=late)}):
        with pytest.raises(CollateralError, match="not yet valid"):
            judge(MILAN, **chain)


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS, ids=name)
def test_a_revoked_ask(platform):
    with pytest.raises(NotGenuineError, match=f"revoked the certificate {platform.ask_name}, serial 0x10001"):
        judge(platform, crl=platform.crl(revoked=(5, 0x10001, 9)))
    assert judge(platform, crl=platform.crl(revoked=(5, 9))).crl_expires == END


def test_a_revoked_vek():
    with pytest.raises(NotGenuineError, match="revoked the certificate SEV-VCEK"):
        judge(MILAN, vek=MILAN.vek(serial=77), crl=MILAN.crl(revoked=(77,)))


def test_a_revocation_outlives_its_list():
    with pytest.raises(NotGenuineError, match="revoked"):
        judge(MILAN, crl=MILAN.crl(revoked=(0x10001,), end=NOW - timedelta(days=1)))


def test_an_outdated_list_leaves_it_undecided():
    with pytest.raises(CollateralError, match="the CRL of ARK-Milan is no longer valid"):
        judge(MILAN, crl=MILAN.crl(end=NOW - timedelta(seconds=1)))
    with pytest.raises(CollateralError, match="the CRL of ARK-Milan is not yet valid"):
        judge(MILAN, crl=MILAN.crl(begin=NOW + timedelta(seconds=1)))


@pytest.mark.parametrize(
    ("crl", "why"),
    [
        (MILAN.crl(signer="impostor"), "not signed by ARK-Milan"),
        (MILAN.crl(issuer="SEV-Milan", signer="SEV-Milan"), "is of 'SEV-Milan'"),
        (TURIN.crl(), "is of 'ARK-Turin'"),
        (MILAN.crl(end=None), "cannot be read"),
        (MILAN.crl(extensions=(Extension(b"\x55\x1d\x1b", make.whole(1), critical=True),)), "cannot be read"),
        (MILAN.crl()[:-1], "cannot be read"),
        (MILAN.ask(), "cannot be read"),
        (b"\0", "cannot be read"),
    ],
    ids=["forged", "of the ASK", "of another product", "without an end", "a delta", "cut", "a certificate", "nothing"],
)
def test_a_list_that_cannot_be_relied_on(crl, why):
    with pytest.raises(CollateralError, match=why):
        judge(MILAN, crl=crl)


def test_a_root_that_signs_no_lists():
    with pytest.raises(CollateralError, match="the CRL is of"):
        judge(MILAN, ark=MILAN.ark(extensions=(make.CA, make.CERT_SIGN)), crl=MILAN.crl())


def test_a_forgery_is_a_forgery_at_any_time():
    with pytest.raises(NotGenuineError):
        judge(MILAN, MILAN.report(key=make.ec_key("stranger")), now=datetime(2060, 1, 1, tzinfo=UTC))
