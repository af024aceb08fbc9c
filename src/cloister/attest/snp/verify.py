"""SEV-SNP: whether AMD's hardware made a report, and what the report then says.

Sources: AMD "SEV Secure Nested Paging Firmware ABI Specification", document 56860, and AMD "Versioned Chip Endorsement
Key (VCEK) Certificate and KDS Interface Specification", document 57230. A report is signed by the chip's VCEK, or by a
VLEK that AMD lends to a cloud provider; an ASK certified that key, and the product's ARK certified the ASK.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cloister.attest import der
from cloister.attest.claims import SnpClaims
from cloister.attest.dcap.collateral import SnpCollateral
from cloister.attest.snp.certificates import Certificate, RevocationList
from cloister.attest.snp.report import VCEK, VLEK, Product, Report, components, read_tcb, reserved_set
from cloister.errors import CollateralError, EvidenceError, NotGenuineError

ARK_SPKI: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        # https://kdsintf.amd.com/vcek/v1/Milan/cert_chain
        "Milan": bytes.fromhex("9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
        # https://kdsintf.amd.com/vcek/v1/Genoa/cert_chain
        "Genoa": bytes.fromhex("429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
        # https://kdsintf.amd.com/vcek/v1/Turin/cert_chain
        "Turin": bytes.fromhex("4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
    }
)
"""SHA-256 of the SubjectPublicKeyInfo (DER) of each product's root key; the chain's second certificate holds it."""

KDS: Final = "https://kdsintf.amd.com"
_VCEK: Final = f"{KDS}/vcek/v1/"

_LINES: Final[dict[str, Product]] = {
    "Milan": "Milan",
    "Genoa": "Genoa",
    "Bergamo": "Genoa",
    "Siena": "Genoa",
    "Turin": "Turin",
}
"""Product names in certificates, with the product whose keys they have."""

_PRODUCT_NAME: Final = "1.3.6.1.4.1.3704.1.2"
_SPL: Final = {
    "bl": "1.3.6.1.4.1.3704.1.3.1",
    "tee": "1.3.6.1.4.1.3704.1.3.2",
    "snp": "1.3.6.1.4.1.3704.1.3.3",
    "ucode": "1.3.6.1.4.1.3704.1.3.8",
    "fmc": "1.3.6.1.4.1.3704.1.3.9",
}
_HWID: Final = "1.3.6.1.4.1.3704.1.4"
_CSP_ID: Final = "1.3.6.1.4.1.3704.1.5"
_HWID_BYTES: Final[dict[Product, int]] = {"Milan": 64, "Genoa": 64, "Turin": 8}

_VEKS: Final[dict[str, Literal["vcek", "vlek"]]] = {"SEV-VCEK": "vcek", "SEV-VLEK": "vlek"}
_SIGNERS: Final = {VCEK: "SEV-VCEK", VLEK: "SEV-VLEK"}


def authenticate(
    report: bytes,
    *,
    endorsements: Sequence[bytes],
    collateral: SnpCollateral | None,
    now: datetime,
    roots: Mapping[str, bytes] = ARK_SPKI,
) -> SnpClaims:
    """What a genuine report says. Nothing in it is judged: a debug guest is genuine.

    ``report``: 1184 bytes. ``endorsements``: certificates in DER that came with it, in any order, untrusted.
    ``collateral``: further certificates, which come first where both have one, and the CRL; without a CRL, revocation
    is unknown and ``crl_issued`` is None. ``roots``: SHA-256 of the ARK's SubjectPublicKeyInfo, by product.

    Raises:
        EvidenceError: the report or a certificate that came with it cannot be read.
        NotGenuineError: a signature, a pinned key or a name is wrong, certificate and report do not belong together,
            or a key was revoked. Lists what failed, up to the first broken link of the chain.
        CollateralError: a certificate is missing (the message says where it is to be had); a certificate or the CRL is
            not valid at ``now``; the CRL cannot be read, or is another's.
    """
    read = Report.parse(report)
    certificates = _certificates(endorsements, collateral)
    vek, product = _vek(read, certificates)
    kind = _VEKS[vek.subject]
    failures = list(_mismatches(read, vek, product))
    ask = _named(certificates, _ask_name(product, kind))
    ark = _named(certificates, f"ARK-{product}")
    if ask is not None and ark is not None:
        failures += _broken(read, (vek, ask, ark), roots.get(product))
    if failures:
        raise NotGenuineError("no genuine SEV-SNP report: " + "; ".join(failures))
    if ask is None or ark is None:
        missing = _ask_name(product, kind) if ask is None else f"ARK-{product}"
        raise CollateralError(f"the certificate {missing} is missing; get {KDS}/{kind}/v1/{product}/cert_chain")
    crl = _crl(collateral, ark)
    for certificate in (vek, ask, ark):
        if crl and certificate.serial in crl.revoked:
            raise NotGenuineError(f"AMD revoked the certificate {certificate.subject}, serial {certificate.serial:#x}")
    outdated = list(_outdated((vek, ask, ark), crl, now))
    if outdated:
        raise CollateralError("; ".join(outdated))
    return _claims(read, vek, product, crl)


def vcek_url(report: Report, product: Product) -> str:
    """Where AMD publishes the certificate of the VCEK that signed ``report`` (document 57230, chapter 4)."""
    tcb = read_tcb(report.reported_tcb, product=product)
    levels = "&".join(f"{name}SPL={getattr(tcb, name):02d}" for name in components(product))
    return f"{_VCEK}{product}/{report.chip_id[: _HWID_BYTES[product]].hex()}?{levels}"


def _certificates(endorsements: Sequence[bytes], collateral: SnpCollateral | None) -> list[Certificate]:
    own = (collateral.vek, collateral.ask, collateral.ark) if collateral else ()
    try:
        found = [Certificate.parse(data) for data in own if data is not None]
    except EvidenceError as fault:
        raise CollateralError(f"the collateral has a certificate that cannot be read: {fault}") from None
    return found + [Certificate.parse(data) for data in endorsements]


def _vek(report: Report, certificates: Sequence[Certificate]) -> tuple[Certificate, Product]:
    """The VCEK or VLEK that fits the report best (a host may hand out an older one too), and the product of both."""
    veks = [certificate for certificate in certificates if certificate.subject in _VEKS]
    if not veks:
        raise CollateralError(_where_to_get_the_vek(report))
    fits = [(vek, _product(report, vek)) for vek in veks]
    return min(fits, key=lambda fit: len(list(_mismatches(report, *fit))))


def _where_to_get_the_vek(report: Report) -> str:
    if report.signing_key == VLEK:
        return "the VLEK's certificate is missing; only the host's provider has it, and it comes with the evidence"
    product = report.cpuid.product if report.cpuid else None
    place = "<product>/<chip id>" if product is None or report.masked else vcek_url(report, product).removeprefix(_VCEK)
    return f"the VCEK's certificate is missing; get {_VCEK}{place}"


def _product(report: Report, vek: Certificate) -> Product:
    """By the chip's CPUID; reports of version 2 do not have it, and then by the certificate."""
    product = report.cpuid.product if report.cpuid else _LINES.get(_line(vek))
    if product is None:
        chip = f"CPUID {report.cpuid}" if report.cpuid else f"product {_line(vek)!r}"
        raise NotGenuineError(f"the report is of a processor that is not known here, {chip}")
    return product


def _line(vek: Certificate) -> str:
    """The product in the certificate: ``Milan``, say, of ``Milan-B0``."""
    name = vek.extensions.get(_PRODUCT_NAME)
    return der.text(der.read(name.value, der.IA5_STRING)).partition("-")[0] if name else ""


def _ask_name(product: Product, kind: str) -> str:
    return f"SEV-{product}" if kind == "vcek" else f"SEV-VLEK-{product}"


def _named(certificates: Sequence[Certificate], subject: str) -> Certificate | None:
    return next((certificate for certificate in certificates if certificate.subject == subject), None)


def _mismatches(report: Report, vek: Certificate, product: Product) -> Iterator[str]:
    """In what the report and its signer's certificate do not belong together."""
    signer = _SIGNERS.get(report.signing_key, "nobody")
    issuer = _ask_name(product, _VEKS[vek.subject])
    if vek.subject != signer:
        yield f"the report says that {signer} signed it, and the certificate is of {vek.subject}"
    if vek.issuer != issuer:
        yield f"the issuer of {vek.subject} is {vek.issuer!r}, not {issuer}"
    if _LINES.get(_line(vek)) != product:
        yield f"the report is of a {product}, the certificate of {_line(vek)!r}"
    for field in ("reported_tcb", "committed_tcb", "launch_tcb", "current_tcb"):
        if reserved_set(getattr(report, field), product=product):
            yield f"{field} has bits set that mean nothing on a {product}"
    reported = read_tcb(report.reported_tcb, product=product)
    for name in components(product):
        level, certified = getattr(reported, name), _number(vek, _SPL[name])
        if level != certified:
            yield f"reported_tcb's {name} is {level}, and the certificate is for {certified}"
    yield from _other_chip(report, vek, product)


def _other_chip(report: Report, vek: Certificate, product: Product) -> Iterator[str]:
    """A VCEK is one chip's, and its certificate says whose. A VLEK is a provider's, and its certificate says whose."""
    hwid = vek.extensions.get(_HWID)
    if vek.subject == "SEV-VLEK":
        if hwid is not None or _CSP_ID not in vek.extensions:
            yield "the VLEK's certificate does not name a provider, or names a chip"
    elif hwid is None or len(hwid.value) != _HWID_BYTES[product]:
        yield f"the VCEK's certificate does not name a chip of a {product}"
    elif not report.masked and report.chip_id != hwid.value.ljust(64, b"\0"):
        yield "chip_id is not the chip that the certificate names"


def _number(certificate: Certificate, name: str) -> int | None:
    extension = certificate.extensions.get(name)
    return der.integer(der.read(extension.value, der.INTEGER).content) if extension else None


def _broken(report: Report, chain: tuple[Certificate, Certificate, Certificate], root: bytes | None) -> Iterator[str]:
    """The first link, from the root down, that does not hold: no key is used that is not trusted by then."""
    vek, ask, ark = chain
    if hashlib.sha256(ark.spki).digest() != root:
        yield f"the key of {ark.subject} is not the one that is pinned for this product"
        return
    for issuer, subject in ((ark, ark), (ark, ask), (ask, vek)):
        if not issuer.is_ca or subject.issuer != issuer.subject:
            yield f"{issuer.subject} may not certify {subject.subject}, which names {subject.issuer!r} as its issuer"
            return
        try:
            subject.signed.check(issuer.spki)
        except NotGenuineError as fault:
            yield f"the certificate {subject.subject} is not signed by {issuer.subject}: {fault}"
            return
    yield from _unsigned(report, vek)


def _unsigned(report: Report, vek: Certificate) -> Iterator[str]:
    if report.mask_chip_key and not (report.r or report.s):
        yield "the host masks its chip's key, so that its reports are not signed"
        return
    try:
        key = load_der_public_key(vek.spki)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            yield f"the key of {vek.subject} is not on P-384"
            return
        key.verify(encode_dss_signature(report.r, report.s), report.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        yield f"the report is not signed by this {vek.subject}"


def _crl(collateral: SnpCollateral | None, ark: Certificate) -> RevocationList | None:
    """The CRL at hand. AMD has one per product, signed by the ARK, since it is ASKs that get revoked."""
    if collateral is None or collateral.crl is None:
        return None
    try:
        crl = RevocationList.parse(collateral.crl)
    except EvidenceError as fault:
        raise CollateralError(f"the CRL cannot be read: {fault}") from None
    if crl.issuer != ark.subject or not ark.signs_crls:
        raise CollateralError(f"the CRL is of {crl.issuer!r}, not of {ark.subject}")
    try:
        crl.signed.check(ark.spki)
    except NotGenuineError as fault:
        raise CollateralError(f"the CRL is not signed by {ark.subject}: {fault}") from None
    return crl


def _outdated(chain: Sequence[Certificate], crl: RevocationList | None, now: datetime) -> Iterator[str]:
    spans = [(f"the certificate {link.subject}", link.not_before, link.not_after) for link in chain]
    if crl:
        spans.append((f"the CRL of {crl.issuer}", crl.this_update, crl.next_update))
    for what, start, end in spans:
        if now < start:
            yield f"{what} is not yet valid at {now:%Y-%m-%d %H:%M} UTC: it is from {start:%Y-%m-%d %H:%M} on"
        elif now > end:
            yield f"{what} is no longer valid at {now:%Y-%m-%d %H:%M} UTC: it was until {end:%Y-%m-%d %H:%M}"


def _claims(report: Report, vek: Certificate, product: Product, crl: RevocationList | None) -> SnpClaims:
    csp_id = vek.extensions.get(_CSP_ID)
    return SnpClaims(
        report_data=report.report_data,
        measurement=report.measurement,
        host_data=report.host_data,
        id_key_digest=report.id_key_digest,
        author_key_digest=report.author_key_digest,
        family_id=report.family_id,
        image_id=report.image_id,
        report_id=report.report_id,
        guest_svn=report.guest_svn,
        policy=report.policy,
        debug=report.debug,
        migratable=report.migratable,
        smt=report.smt,
        single_socket=report.single_socket,
        vmpl=report.vmpl,
        product=product,
        signer=_VEKS[vek.subject],
        csp_id=der.text(der.read(csp_id.value, der.IA5_STRING)) if csp_id else None,
        chip_id=None if report.masked else report.chip_id,
        platform_info=report.platform_info,
        reported=read_tcb(report.reported_tcb, product=product),
        committed=read_tcb(report.committed_tcb, product=product),
        launch=read_tcb(report.launch_tcb, product=product),
        current=read_tcb(report.current_tcb, product=product),
        crl_issued=crl.this_update if crl else None,
        crl_expires=crl.next_update if crl else None,
    )
