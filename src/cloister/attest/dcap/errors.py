"""What it means when ``dcap-qvl`` refuses: which of our errors it is, with a sentence for a person.

dcap-qvl 0.7.0 has one exception for everything and tells by its text what failed, but not why a certificate chain does
not hold. It checks in this order, which the table leans on: collateral, PCK chain with revocation, QE report, QE
identity, the quote's own signature, TCB level, attributes. A text that is not in the table is not genuine.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.attest.dcap.collateral import DcapCollateral
from cloister.attest.dcap.published import UNREADABLE, signing_chain
from cloister.attest.dcap.quote import Quote
from cloister.errors import AttestationError, CollateralError, EvidenceError, NotGenuineError, UnacceptableError

ROOT_KEY: Final = bytes.fromhex(
    "040ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
"""The key of "Intel SGX Root CA", an uncompressed point on P-256. It only explains here; dcap-qvl holds its own."""

_SENTENCES: Final[tuple[tuple[str, type[AttestationError], str], ...]] = (
    ("Failed to decode quote", EvidenceError, "it is no quote"),
    ("Unsupported DCAP", EvidenceError, "it is a quote of a form that is not read here"),
    ("Invalid QE auth data length", EvidenceError, "it is a quote of a form that is not read here"),
    ("Fmspc mismatch", CollateralError, "the TCB info is about another kind of platform (FMSPC)"),
    ("SGX quote with non-SGX", CollateralError, "the TCB info is not about SGX"),
    ("TDX quote with non-TDX", CollateralError, "the TCB info is not about TDX"),
    ("Unsupported QE Identity", CollateralError, "the QE identity is of another TEE, or of a version not read here"),
    ("Signature is invalid for tcb_info", CollateralError, "the TCB info is not signed by Intel: it was changed"),
    ("Signature is invalid for qe_identity", CollateralError, "the QE identity is not signed by Intel: it was changed"),
    ("Invalid key length", CollateralError, "a signature in the collateral is too short"),
    ("CertRevoked", CollateralError, "the root certificate is in its own CRL"),
    ("CrlExpired", CollateralError, "a CRL expired"),
    ("Collateral expired", CollateralError, "a part of the collateral expired"),
    ("TCBInfo", CollateralError, "the TCB info is not valid at this time"),
    ("QE Identity", CollateralError, "the QE identity is not valid at this time"),
    ("TDX TCB Info is missing", CollateralError, "the TCB info says nothing about the TDX module"),
    ("TDX component count", CollateralError, "the TCB info is not as long as it must be"),
    ("SGX component count", CollateralError, "the TCB info is not as long as it must be"),
    ("No TCB levels found", CollateralError, "the QE identity has no TCB levels"),
    ("Failed to decode TCB FMSPC", CollateralError, "the TCB info cannot be read"),
    ("Failed to decode TcbInfo", CollateralError, "the TCB info cannot be read"),
    ("Failed to decode QeIdentity", CollateralError, "the QE identity cannot be read"),
    ("Failed to parse TCB Info", CollateralError, "the TCB info, or its issuer chain, cannot be read"),
    ("Failed to parse QE Identity", CollateralError, "the QE identity, or its issuer chain, cannot be read"),
    ("Invalid TCB level tcbDate", CollateralError, "the TCB info cannot be read"),
    ("Failed to parse root CA CRL", CollateralError, "the root's CRL cannot be read, or the root did not sign it"),
    ("Failed to parse PCK CRL", CollateralError, "the PCK CA's CRL cannot be read, or its CA did not sign it"),
    ("Failed to parse CRL", CollateralError, "a CRL cannot be read"),
    ("Certificate chain is too short for", CollateralError, "an issuer chain in the collateral is too short"),
    ("Debug mode is enabled", UnacceptableError, "debug: whoever runs the machine can read and change its memory"),
    ("TD profiling is enabled", UnacceptableError, "profiled: whoever runs the machine can watch it closely"),
    ("TD migration is enabled", UnacceptableError, "migratable: it can be moved to another machine"),
    ("SERVTD_EXT is enabled", UnacceptableError, "a service TD may act on it"),
    ("Invalid MR service TD", UnacceptableError, "a service TD may act on it"),
    ("SEPT_VE_DISABLE is not enabled", UnacceptableError, "the host can take away its memory unnoticed"),
    ("Reserved bits in TD attributes", UnacceptableError, "it has attributes that are not known here"),
    ("TCB status is invalid", UnacceptableError, "TCB status Revoked: Intel no longer vouches for such a platform"),
    ("No matching TCB level", UnacceptableError, "the platform's TCB is below every level that Intel lists"),
    ("QE ISVSVN", UnacceptableError, "its quoting enclave is older than every level that Intel lists"),
    ("TDX module", UnacceptableError, "its TDX module is not one that the TCB info vouches for"),
    ("QE MRSIGNER mismatch", NotGenuineError, "the enclave that made it is not Intel's quoting enclave (MRSIGNER)"),
    ("QE ISVPRODID mismatch", NotGenuineError, "the enclave that made it is not Intel's quoting enclave (ISVPRODID)"),
    ("QE MISCSELECT mismatch", NotGenuineError, "the enclave that made it is not as the QE identity says (MISCSELECT)"),
    ("QE ATTRIBUTES mismatch", NotGenuineError, "the enclave that made it is not as the QE identity says (ATTRIBUTES)"),
    ("QE report validation failed", NotGenuineError, "the enclave that made it is a debug enclave"),
    ("QE report hash mismatch", NotGenuineError, "the quoting enclave did not make the key that signed it"),
    ("Signature is invalid for qe_report", NotGenuineError, "the quoting enclave's report is not signed by its PCK"),
    ("ISV enclave report signature", NotGenuineError, "the quote is not signed by its attestation key: it was changed"),
    ("Unknown QE vendor", NotGenuineError, "the enclave that made it is not Intel's quoting enclave (vendor)"),
)

_CHAIN: Final = "Failed to verify certificate chain"


def refusal(
    text: str, *, quote: Quote, collateral: DcapCollateral, now: datetime, root: bytes | None
) -> AttestationError:
    """The error for what dcap-qvl said. ``root``: DER of another root than Intel's."""
    said = text.removeprefix("Verification failed: ")
    if said.startswith(_CHAIN):
        return _broken_chain(quote, collateral, now, root)
    for start, kind, sentence in _SENTENCES:
        if said.startswith(start):
            return _unwanted(quote, sentence) if kind is UnacceptableError else kind(sentence)
    return NotGenuineError("no genuine quote, or no genuine collateral: a certificate or signature cannot be read")


def _unwanted(quote: Quote, sentence: str) -> AttestationError:
    """Genuine but never acceptable. By then all is checked, but the quote's own signature where the QE is too old."""
    try:
        quote.check_signature()
    except NotGenuineError as fault:
        return fault
    return UnacceptableError([sentence])


def _broken_chain(quote: Quote, collateral: DcapCollateral, now: datetime, root: bytes | None) -> AttestationError:
    """Whose chain it is that does not hold, the collateral's or the quote's, and why."""
    try:
        key = _root_key(root)
        root_crl = x509.load_der_x509_crl(collateral.root_ca_crl)
        pck_crl = x509.load_der_x509_crl(collateral.pck_crl)
        if not root_crl.is_signature_valid(key):
            return CollateralError("the root's CRL is not signed by the root")
        for what, chain in (
            ("TCB info", collateral.tcb_info_issuer_chain),
            ("QE identity", collateral.qe_identity_issuer_chain),
        ):
            fault = _fault(signing_chain(what, chain)[0], key, root_crl, now)
            if fault:
                return CollateralError(f"the certificate that signed the {what} {fault}")
    except UNREADABLE:
        return CollateralError("a certificate or CRL in the collateral cannot be read")
    return _broken_pck_chain(quote, key, root_crl, pck_crl, now)


def _broken_pck_chain(
    quote: Quote,
    key: ec.EllipticCurvePublicKey,
    root_crl: x509.CertificateRevocationList,
    pck_crl: x509.CertificateRevocationList,
    now: datetime,
) -> AttestationError:
    try:
        pck, ca, *_ = x509.load_pem_x509_certificates(quote.pck_chain.rstrip(b"\0"))
        fault = _fault(ca, key, root_crl, now)
        if fault:
            return NotGenuineError(f"the certificate of the PCK's CA {fault}")
        ca_key = _p256(ca)
        if pck.issuer == ca.subject and not pck_crl.is_signature_valid(ca_key):
            return CollateralError("the PCK CA's CRL is another CA's, or not signed by it")
        fault = _fault(pck, ca_key, pck_crl, now)
    except UNREADABLE:
        return NotGenuineError("the quote's certificates cannot be read")
    return NotGenuineError(f"the PCK certificate {fault or 'does not lead to the root'}")


def _fault(
    certificate: x509.Certificate,
    issuer: ec.EllipticCurvePublicKey,
    crl: x509.CertificateRevocationList,
    now: datetime,
) -> str:
    """In what the certificate fails: "was revoked", say. Empty if in nothing that is looked at here."""
    algorithm = certificate.signature_hash_algorithm
    try:
        if algorithm is None:
            return "is not signed by the one above it"
        issuer.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        return "is not signed by the one above it"
    if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        return "was revoked"
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    if now > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    return ""


def _root_key(root: bytes | None) -> ec.EllipticCurvePublicKey:
    if root is None:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ROOT_KEY)
    return _p256(x509.load_der_x509_certificate(root))


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not a key on an elliptic curve")
    return key
