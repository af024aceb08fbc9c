"""Collateral from files and services: fetched whole or not at all, kept with its age, and never from elsewhere."""

from __future__ import annotations

import logging
from base64 import encodebytes
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.attest.dcap.collateral import DcapCollateral, SnpCollateral
from cloister.attest.evidence import Evidence
from cloister.errors import CollateralError, ConfigurationError, EvidenceError, UnreachableError
from cloister.net.collateral import Service, cache_folder, source
from tests.attest.genuine import dcap, needs_vectors, snp
from tests.net.shop import Reply, Shop, nobody, shop

pytestmark = needs_vectors

TCB = "/tdx/certification/v4/tcb?fmspc=B0C06F000000"
IDENTITY = "/tdx/certification/v4/qe/identity"
PCK_CRL = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
ROOT_CRL = "/sgx/certification/v4/rootcacrl"


class Vector:
    """A genuine TDX quote with its collateral, and the moment that both are for."""

    def __init__(self) -> None:
        found = dcap("tdx-v4-uptodate-2025")
        self.evidence = Evidence(tee="tdx", quote=found.quote)
        self.collateral = DcapCollateral.parse(found.collateral_json)
        self.now = found.now

    def stock(self, server: Shop) -> None:
        """Lays it out as a PCCS would."""
        c = self.collateral
        server.shelf |= {
            TCB: _signed("tcbInfo", c.tcb_info, c.tcb_info_signature, "TCB-Info-Issuer-Chain", c.tcb_info_issuer_chain),
            IDENTITY: _signed(
                "enclaveIdentity",
                c.qe_identity,
                c.qe_identity_signature,
                "SGX-Enclave-Identity-Issuer-Chain",
                c.qe_identity_issuer_chain,
            ),
            PCK_CRL: Reply(c.pck_crl, {"SGX-PCK-CRL-Issuer-Chain": quote(c.pck_crl_issuer_chain)}),
            ROOT_CRL: Reply(c.root_ca_crl.hex().encode()),
        }


def _signed(name: str, text: str, signature: bytes, header: str, chain: str) -> Reply:
    body = f'{{"{name}":{text},"signature":"{signature.hex()}"}}'
    return Reply(body.encode(), {header: quote(chain), "Content-Type": "application/json"})


@pytest.fixture(scope="module")
def tdx() -> Vector:
    return Vector()


@pytest.fixture
def server() -> Iterator[Shop]:
    with shop() as opened:
        yield opened


@pytest.fixture
def pccs(server: Shop, tdx: Vector) -> Shop:
    tdx.stock(server)
    return server


def at(url: str, folder: Path, **more: Any) -> Service:
    found = source(url, cache=folder, **more)
    assert isinstance(found, Service)
    return found


def test_from_a_file(tmp_path: Path, tdx: Vector) -> None:
    (tmp_path / "c.json").write_bytes(tdx.collateral.encode())
    assert source(str(tmp_path / "c.json"))(tdx.evidence, tdx.now) == tdx.collateral


@pytest.mark.parametrize(
    ("data", "text"), [(None, "No such file"), (b"{}", "partial"), (b" " * 2_000_000, "longer than")]
)
def test_from_a_bad_file(tmp_path: Path, tdx: Vector, data: bytes | None, text: str) -> None:
    if data is not None:
        (tmp_path / "c.json").write_bytes(data)
    with pytest.raises(CollateralError, match=rf"c\.json.*{text}"):
        source(str(tmp_path / "c.json"))(tdx.evidence, tdx.now)


def test_from_nowhere(tdx: Vector) -> None:
    with pytest.raises(CollateralError, match="name a file or the URL"):
        source(None)(tdx.evidence, tdx.now)


def test_a_url_that_cannot_be_asked() -> None:
    with pytest.raises(ConfigurationError, match="ftp"):
        source("ftp://pccs.example")


def test_from_a_service(pccs: Shop, tmp_path: Path, tdx: Vector) -> None:
    assert at(pccs.url + "/", tmp_path)(tdx.evidence, tdx.now) == tdx.collateral
    assert pccs.asked == [TCB, IDENTITY, PCK_CRL, ROOT_CRL]


def test_a_service_is_asked_once(pccs: Shop, tmp_path: Path, tdx: Vector) -> None:
    first = at(pccs.url, tmp_path)
    first(tdx.evidence, tdx.now)
    first(tdx.evidence, tdx.now + timedelta(hours=23))
    at(pccs.url, tmp_path)(tdx.evidence, tdx.now + timedelta(hours=23))  # another run
    assert len(pccs.asked) == 4
    first(tdx.evidence, tdx.now + timedelta(hours=25))
    assert len(pccs.asked) == 8


def test_a_simulated_tee_needs_none(server: Shop, tmp_path: Path, tdx: Vector) -> None:
    assert at(server.url, tmp_path)(Evidence(tee="simulated", quote=b"x"), tdx.now) is None
    assert not server.asked


def test_evidence_that_names_no_platform(server: Shop, tmp_path: Path, tdx: Vector) -> None:
    for tee, data in (("tdx", b"x"), ("sgx", tdx.evidence.quote[:700]), ("snp", bytes(1184))):
        with pytest.raises(EvidenceError):
            at(server.url, tmp_path)(Evidence(tee=tee, quote=data), tdx.now)  # type: ignore[arg-type]
    assert not server.asked


@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_without_the_service_what_is_kept_is_used_until_it_expires(
    pccs: Shop, tmp_path: Path, tdx: Vector, caplog: pytest.LogCaptureFixture, keep_in_memory: bool
) -> None:
    first = at(pccs.url, tmp_path)
    first(tdx.evidence, tdx.now)
    again = first if keep_in_memory else at(pccs.url, tmp_path)
    pccs.shelf.clear()
    with caplog.at_level(logging.WARNING):
        assert again(tdx.evidence, tdx.now + timedelta(days=2, minutes=5)) == tdx.collateral
    assert "fetched 48 h 5 min ago" in caplog.text
    with pytest.raises(CollateralError, match="404"):
        again(tdx.evidence, tdx.now + timedelta(days=60))


def test_a_service_that_cannot_be_reached(tmp_path: Path, tdx: Vector) -> None:
    with pytest.raises(UnreachableError):
        at(nobody(), tmp_path)(tdx.evidence, tdx.now)
    assert not list(tmp_path.iterdir())


def test_what_expired_is_not_kept(pccs: Shop, tmp_path: Path, tdx: Vector) -> None:
    with pytest.raises(CollateralError, match="expired at 2025-"):
        at(pccs.url, tmp_path)(tdx.evidence, tdx.now + timedelta(days=60))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("tamper", ["garbage", "cut", "from the future", "no dates", "a folder"])
def test_a_cache_is_not_trusted(pccs: Shop, tmp_path: Path, tdx: Vector, tamper: str) -> None:
    at(pccs.url, tmp_path)(tdx.evidence, tdx.now)
    (file,) = tmp_path.iterdir()
    stamp, _, data = file.read_bytes().partition(b"\n")
    if tamper == "garbage":
        file.write_bytes(b"\xff" * 100)
    elif tamper == "cut":
        file.write_bytes(stamp + b"\n" + data[:-10])
    elif tamper == "from the future":
        file.write_bytes((tdx.now + timedelta(days=1)).isoformat().encode() + b"\n" + data)
    elif tamper == "no dates":
        file.write_bytes(stamp + b"\n" + data.replace(b"nextUpdate", b"lastUpdate"))
    else:
        file.unlink()
        file.mkdir()
    assert at(pccs.url, tmp_path)(tdx.evidence, tdx.now) == tdx.collateral
    assert len(pccs.asked) == 8


def test_a_cache_that_cannot_be_written(pccs: Shop, tmp_path: Path, tdx: Vector) -> None:
    (tmp_path / "file").touch()
    found = at(pccs.url, tmp_path / "file" / "cache")
    assert found(tdx.evidence, tdx.now) == tdx.collateral
    assert found(tdx.evidence, tdx.now) == tdx.collateral
    assert len(pccs.asked) == 4


def test_the_users_own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cloister" / "collateral"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "cloister" / "collateral"


NESTED = b'{"tcbInfo":' + b"[" * 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "change", "text"),
    [
        pytest.param(TCB, lambda reply: reply._replace(status=404), "404", id="no such platform"),
        pytest.param(TCB, lambda reply: reply._replace(body=b"<html>"), "no signed tcbInfo", id="a web page"),
        pytest.param(TCB, lambda reply: reply._replace(body=NESTED), "no signed tcbInfo", id="lists without end"),
        pytest.param(TCB, lambda reply: reply._replace(body=reply.body[:-1]), "no signed tcbInfo", id="cut"),
        pytest.param(TCB, lambda reply: reply._replace(body=reply.body + b"x"), "no signed tcbInfo", id="more"),
        pytest.param(TCB, lambda reply: reply._replace(body=b'{"a":1,"a":1}'), "no signed tcbInfo", id="twice"),
        pytest.param(TCB, lambda reply: reply._replace(body=b'{"signature":7,"tcbInfo":{}}'), "no signed", id="number"),
        pytest.param(TCB, lambda reply: reply._replace(body=b"x" * 300_000), "more than 262144", id="huge"),
        pytest.param(TCB, lambda reply: reply._replace(headers={}), "TCB-Info-Issuer-Chain", id="no chain"),
        pytest.param(TCB, lambda reply: Reply(reply.body, {"TCB-Info-Issuer-Chain": "%ff"}), "Chain", id="bad chain"),
        pytest.param(
            TCB, lambda reply: reply._replace(body=reply.body.replace(b"nextUpdate", b"x")), "until when", id="no date"
        ),
        pytest.param(
            TCB,
            lambda reply: reply._replace(body=reply.body.replace(b'"nextUpdate":"2', b'"nextUpdate":"x')),
            "until when",
            id="bad date",
        ),
        pytest.param(IDENTITY, lambda reply: reply._replace(body=b"{}"), "no signed enclaveIdentity", id="no identity"),
        pytest.param(PCK_CRL, lambda reply: Reply(b"\x30" * 200, reply.headers), "until when", id="no CRL"),
        pytest.param(PCK_CRL, lambda reply: Reply(b"nothing", reply.headers), "neither .* DER", id="a text"),
        pytest.param(ROOT_CRL, lambda reply: Reply(b"3082zz"), "neither .* DER", id="bad digits"),
        pytest.param(ROOT_CRL, lambda reply: Reply(b""), "neither .* DER", id="empty"),
    ],
)
def test_bad_answers(pccs: Shop, tmp_path: Path, tdx: Vector, path: str, change: Any, text: str) -> None:
    pccs.shelf[path] = change(pccs.shelf[path])
    with pytest.raises(CollateralError, match=text) as caught:
        at(pccs.url, tmp_path)(tdx.evidence, tdx.now)
    assert pccs.url in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_questions_share_one_deadline(pccs: Shop, tmp_path: Path, tdx: Vector) -> None:
    def late(handler: Any) -> None:
        pccs.gone.wait(0.15)
        pccs_has[handler.path](handler)

    pccs_has = dict(pccs.shelf)
    pccs.shelf = dict.fromkeys(pccs_has, late)
    with pytest.raises(CollateralError, match=r"within|more than"):
        at(pccs.url, tmp_path, within_s=0.3)(tdx.evidence, tdx.now)


def pem(*certificates: bytes) -> bytes:
    lines = [b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % encodebytes(der) for der in certificates]
    return b"".join(lines)


@pytest.fixture(scope="module")
def crl() -> bytes:
    """A list that nobody trusts, of the form that AMD's have."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ARK-Turin")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateRevocationListBuilder(name, start, start + timedelta(days=365))
    key = rsa.generate_private_key(65537, 2048)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    return builder.sign(key, hashes.SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)


KDS = {
    "Turin_VCEK_v5_b6e4357b": "/vcek/v1/Turin",
    "Genoa_VCEK_v3_9d5745e3": "/vcek/v1/Genoa",
    "Milan_VCEK_v2_56dc704f": "/vcek/v1/Milan",
    "Milan_VLEK_v3_baccec91": "/vlek/v1/Milan",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KDS)
def test_snp_with_the_certificate_that_came_along(server: Shop, tmp_path: Path, crl: bytes, name: str) -> None:
    found, path = snp(name), KDS[name]
    server.shelf = {f"{path}/cert_chain": Reply(pem(found.ask, found.ark)), f"{path}/crl": Reply(crl)}
    evidence = Evidence(tee="snp", quote=found.report, endorsements=(found.vek,))
    collateral = at(server.url, tmp_path)(evidence, datetime(2026, 2, 1, tzinfo=UTC))
    assert collateral == SnpCollateral(vek=None, ask=found.ask, ark=found.ark, crl=crl)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("Turin_VCEK_v5_b6e4357b", {"fmc", "bl", "tee", "snp", "ucode"}),
        ("Genoa_VCEK_v3_9d5745e3", {"bl", "tee", "snp", "ucode"}),
    ],
)
def test_snp_alone(server: Shop, tmp_path: Path, crl: bytes, name: str, levels: set[str]) -> None:
    found, path = snp(name), KDS[name]
    server.shelf = {f"{path}/cert_chain": Reply(pem(found.ask, found.ark)), f"{path}/crl": Reply(crl)}
    evidence = Evidence(tee="snp", quote=found.report)
    service = at(server.url, tmp_path)
    with pytest.raises(CollateralError, match="404"):
        service(evidence, datetime(2026, 2, 1, tzinfo=UTC))
    chip, _, query = server.asked[-1].removeprefix(f"{path}/").partition("?")
    assert bytes.fromhex(chip) == found.report[0x1A0 : 0x1A0 + (8 if "Turin" in name else 64)]
    assert {level.partition("SPL=")[0] for level in query.split("&")} == levels
    server.shelf[server.asked[-1]] = Reply(found.vek)
    collateral = service(evidence, datetime(2026, 2, 1, tzinfo=UTC))
    assert collateral == SnpCollateral(vek=found.vek, ask=found.ask, ark=found.ark, crl=crl)


@pytest.mark.parametrize("name", ["Milan_VCEK_v2_56dc704f", "Milan_VLEK_v3_baccec91"])
def test_snp_that_needs_its_certificate(server: Shop, tmp_path: Path, name: str) -> None:
    with pytest.raises(CollateralError, match="host"):
        at(server.url, tmp_path)(Evidence(tee="snp", quote=snp(name).report), datetime(2026, 2, 1, tzinfo=UTC))
    assert not server.asked


@pytest.mark.parametrize(
    "chain", [b"", b"<html>", pem(b"one"), pem(b"a", b"b", b"c"), pem(b"a", b"b").replace(b"Y", b"=")]
)
def test_snp_chains_that_are_none(server: Shop, tmp_path: Path, crl: bytes, chain: bytes) -> None:
    found, path = snp("Turin_VCEK_v5_b6e4357b"), KDS["Turin_VCEK_v5_b6e4357b"]
    server.shelf = {f"{path}/cert_chain": Reply(chain), f"{path}/crl": Reply(crl)}
    evidence = Evidence(tee="snp", quote=found.report, endorsements=(found.vek,))
    with pytest.raises(CollateralError, match="certificates"):
        at(server.url, tmp_path)(evidence, datetime(2026, 2, 1, tzinfo=UTC))
