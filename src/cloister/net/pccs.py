"""What to ask the makers' services about the platform that made some evidence, and how to read what they answer.

Sources: Intel "SGX and TDX Provisioning Certification Service API", version 4, and what a caching service (PCCS) adds
to it; AMD "VCEK Certificate and KDS Interface Specification", document 57230.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

import dcap_qvl

from cloister.attest.dcap.collateral import DcapCollateral, SnpCollateral
from cloister.attest.evidence import Evidence
from cloister.attest.snp.report import PRODUCTS, VLEK, Product, Report
from cloister.attest.snp.verify import KDS, vcek_url
from cloister.errors import CollateralError, EvidenceError
from cloister.net.download import Document

Ask: TypeAlias = Callable[[str], Document]
"""GETs a path, with its query, from the service."""

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


class DcapPlatform(NamedTuple):
    """An Intel platform, as far as collateral depends on it, from its PCK certificate."""

    tee: Literal["sgx", "tdx"]
    fmspc: str
    ca: str

    def fetch(self, ask: Ask) -> DcapCollateral:
        """Raises ``CollateralError`` for answers that are not what they should be, and what ``ask`` raises."""
        tcb = ask(f"/{self.tee}/certification/v4/tcb?fmspc={self.fmspc}")
        tcb_info, tcb_info_signature = _signed(tcb, "tcbInfo")
        identity = ask(f"/{self.tee}/certification/v4/qe/identity")
        qe_identity, qe_identity_signature = _signed(identity, "enclaveIdentity")
        pck_crl = ask(f"/sgx/certification/v4/pckcrl?ca={self.ca}&encoding=der")
        return DcapCollateral(
            pck_crl_issuer_chain=_chain(pck_crl, "SGX-PCK-CRL-Issuer-Chain"),
            root_ca_crl=_crl(ask("/sgx/certification/v4/rootcacrl")),
            pck_crl=_crl(pck_crl),
            tcb_info_issuer_chain=_chain(tcb, "TCB-Info-Issuer-Chain"),
            tcb_info=tcb_info,
            tcb_info_signature=tcb_info_signature,
            qe_identity_issuer_chain=_chain(identity, "SGX-Enclave-Identity-Issuer-Chain"),
            qe_identity=qe_identity,
            qe_identity_signature=qe_identity_signature,
        )


class SnpPlatform(NamedTuple):
    """An AMD chip, as far as collateral depends on it. ``vcek`` is the path to its VCEK; empty where that came along
    with the evidence, as a VLEK has to."""

    product: Product
    signer: Literal["vcek", "vlek"]
    vcek: str

    def fetch(self, ask: Ask) -> SnpCollateral:
        """Raises ``CollateralError`` for answers that are not what they should be, and what ``ask`` raises."""
        chain = ask(f"/{self.signer}/v1/{self.product}/cert_chain")
        found = _CERTIFICATE.findall(chain.body.decode("latin-1"))
        if len(found) != 2:
            raise CollateralError(f"{chain.url} gave {len(found)} certificates, and not an ASK and an ARK")
        try:
            ask_, ark = (b64decode("".join(text.split()), validate=True) for text in found)
        except ValueError:
            raise CollateralError(f"{chain.url} gave certificates that cannot be read") from None
        return SnpCollateral(
            vek=_der(ask(self.vcek)) if self.vcek else None,
            ask=ask_,
            ark=ark,
            crl=_der(ask(f"/{self.signer}/v1/{self.product}/crl")),
        )


def platform_of(evidence: Evidence) -> DcapPlatform | SnpPlatform:
    """Which platform's collateral is needed to judge ``evidence``, which may not be genuine.

    Raises:
        EvidenceError: it cannot be read, or does not say.
        CollateralError: it needs a certificate that only whoever hands it out can have.
    """
    if evidence.tee == "snp":
        return _snp(evidence)
    if evidence.tee == "simulated":
        raise CollateralError("a simulated TEE has no maker who could publish anything about it")
    try:
        quote = dcap_qvl.parse_quote(evidence.quote)
        fmspc, ca = quote.fmspc(), quote.ca()
    except BaseException as fault:
        # What Rust calls a panic arrives as a BaseException of a module that cannot be imported.
        if not isinstance(fault, ValueError | TypeError) and type(fault).__module__ != "pyo3_runtime":
            raise
        raise EvidenceError(
            "the quote cannot be read, or holds no PCK certificate: nobody knows its platform"
        ) from None
    if not re.fullmatch(r"[0-9A-F]{12}", fmspc) or ca not in ("platform", "processor"):
        raise EvidenceError("the quote's PCK certificate does not name its platform as Intel does")
    return DcapPlatform(evidence.tee, fmspc, ca)


def _snp(evidence: Evidence) -> SnpPlatform:
    report = Report.parse(evidence.quote)
    signer: Literal["vcek", "vlek"] = "vlek" if report.signing_key == VLEK else "vcek"
    product = report.cpuid.product if report.cpuid else _product_named(evidence)
    if product is None:
        raise CollateralError("the report does not say of which product it is; its host has to hand out its VCEK too")
    if evidence.endorsements:
        return SnpPlatform(product, signer, "")
    if signer == "vlek" or report.masked:
        raise CollateralError(
            "the certificate of the key that signed the report is missing; only the host can have it, and hand it out"
        )
    return SnpPlatform(product, signer, vcek_url(report, product).removeprefix(KDS))


def _product_named(evidence: Evidence) -> Product | None:
    """Reports of version 2 do not say; the issuer in the certificate, ``SEV-Milan``, does."""
    first = evidence.endorsements[0] if evidence.endorsements else b""
    return next((product for product in PRODUCTS if product.encode() in first), None)


def _signed(document: Document, name: str) -> tuple[str, bytes]:
    """The JSON text under ``name``, byte by byte as it was signed, and the signature beside it."""
    try:
        texts = _members(document.body.decode())
        signature = binascii.unhexlify(json.loads(texts["signature"]))
        if texts.keys() == {name, "signature"}:
            return texts[name], signature
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CollateralError(f"{document.url} gave no signed {name}; is it a service for Intel's collateral?")


def _members(text: str) -> dict[str, str]:
    """The members of a JSON object (RFC 8259), each value as it is written."""
    decoder = json.JSONDecoder()
    members: dict[str, str] = {}
    at = _expect(text, 0, "{")
    while True:
        name, at = decoder.raw_decode(text, at)
        start = _expect(text, at, ":")
        _, at = decoder.raw_decode(text, start)
        if type(name) is not str or name in members:
            raise ValueError
        members[name] = text[start:at]
        end = re.compile(r"\s*([,}])\s*").match(text, at)
        if end is None:
            raise ValueError
        at = end.end()
        if end[1] == "}":
            if at != len(text):
                raise ValueError
            return members


def _expect(text: str, at: int, char: str) -> int:
    found = re.compile(rf"\s*{re.escape(char)}\s*").match(text, at)
    if found is None:
        raise ValueError
    return found.end()


def _chain(document: Document, name: str) -> str:
    text = document.headers.get(name.lower(), "")
    try:
        chain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        chain = ""
    if not _CERTIFICATE.search(chain):
        raise CollateralError(f"{document.url} sent no {name} along; is it a service for Intel's collateral?")
    return chain


def _crl(document: Document) -> bytes:
    """DER, or its hexadecimal digits, as caching services give it."""
    if document.body[:1] != b"\x30":  # the digits start with a 3
        with suppress(ValueError):  # said below
            document = document._replace(body=binascii.unhexlify(document.body.strip()))
    return _der(document)


def _der(document: Document) -> bytes:
    """A DER SEQUENCE, by its first bytes (X.690, section 8.1); whoever verifies reads the rest."""
    if document.body[:1] != b"\x30" or len(document.body) < 128:
        raise CollateralError(f"{document.url} gave neither a certificate nor a CRL in DER; is it the right service?")
    return document.body
