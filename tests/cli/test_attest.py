"""``cloister attest``: pages, and an exit code for each outcome. Real processes' messages, over real sockets."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
from base64 import encodebytes
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloister.attest import evidence as evidence_form
from cloister.attest import simulated_report
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.dcap.collateral import SnpCollateral
from cloister.attest.evidence import Evidence
from cloister.charter.toml import parse_charter
from cloister.cli import main
from cloister.enclave.server import Aggregator
from cloister.errors import CollateralError, EvidenceError, NotGenuineError, UnacceptableError
from cloister.net.identity import Identity
from cloister.net.proving import Instance
from cloister.wire.peers import parse_address
from tests.attest.genuine import dcap, needs_vectors, ratls, snp

ADDRESS = "agg.example:7443"
MEASUREMENT = b"\x3f" * 48
ATTESTER = SimulatedAttester(measurement=MEASUREMENT, platform=b"\x77" * 32)

CHARTER = f"""
format = "cloister charter 4"
name = "stroke-study"
serial = 1
not_before = 2020-01-01T00:00:00Z
not_after = 2099-01-01T00:00:00Z

[aggregator]
addresses = ["{ADDRESS}"]

[[software]]
name = "aggregator 0.1"
tee = "simulated"
measurement = ["{MEASUREMENT.hex()}"]
min_svn = 1
platforms = "any"

[limits]
floor = 2
largest_share = 0.5
clip = 1.0
noise = "none"
rounds = 10
min_examples = 20
interactive = false
metrics = []
""" + "".join(
    f'[[members]]\nname = "{name}"\nrole = "{role}"\nkey = "sha256:{digit * 64}"\n'
    for name, role, digit in (("alice", "owner", "a"), ("bob", "owner", "b"), ("carol", "researcher", "c"))
)


def run(capsys: Any, *words: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["attest", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return caught.value.code or 0, out, err


@pytest.fixture
def charter(tmp_path: Path) -> Path:
    path = tmp_path / "charter.toml"
    path.write_text(CHARTER, encoding="utf-8")
    return path


@contextmanager
def serving(attester: Any = ATTESTER, *, text: str = CHARTER) -> Iterator[str]:
    """An aggregator in a thread, and where it listens."""
    charter = parse_charter(text)
    instance = Instance(role="aggregator", attester=attester, charter=charter.digest, name=ADDRESS)
    aggregator = Aggregator(instance, charter=charter, listen=parse_address("127.0.0.1:0"))
    thread = threading.Thread(target=aggregator.serve)
    thread.start()
    try:
        yield str(aggregator.address)
    finally:
        aggregator.stop()
        thread.join(10)


# verify


@pytest.mark.slow
def test_an_acceptable_aggregator(capsys, charter, tmp_path):
    identity = Identity.create(tmp_path / "bob.key", days=30)
    with serving() as at:
        words = ["verify", ADDRESS, "--charter", charter, "--at", at, "--accept-simulated"]
        code, out, err = run(capsys, *words, "--key", identity.path)
        assert (code, err) == (0, "")
        assert out.startswith(f"ACCEPTABLE AS A REHEARSAL: {ADDRESS} ")
        assert MEASUREMENT.hex() in out
        assert "stroke-study #1" in out
        assert identity.fingerprint in out
        code, out, _ = run(capsys, *words, "--format", "json")
    told = json.loads(out)
    assert code == 0
    assert (told["verdict"], told["entry"], told["tee"]) == ("acceptable", "aggregator 0.1", "simulated")
    assert told["charter"]["digest"] == parse_charter(CHARTER).digest.hex()
    assert told["keys"]["own"] is None
    assert 0 < told["freshness"]["evidence_age_s"] < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attester", "options", "failure"),
    [
        (ATTESTER, [], "a simulated TEE proves nothing"),
        (
            SimulatedAttester(measurement=bytes(48), platform=bytes(32)),
            ["--accept-simulated"],
            f"aggregator 0.1: measurement is {'00' * 48}, which is not listed",
        ),
        (
            SimulatedAttester(measurement=MEASUREMENT, platform=bytes(32), svn=0, debug=True),
            ["--accept-simulated"],
            "aggregator 0.1: svn is 0, below 1",
        ),
    ],
    ids=["simulated unasked", "other software", "debugged and old"],
)
def test_an_aggregator_that_is_not_acceptable(capsys, charter, attester, options, failure):
    with serving(attester) as at:
        words = ["verify", ADDRESS, "--charter", charter, "--at", at, *options]
        code, out, _ = run(capsys, *words)
        machine, told, _ = run(capsys, *words, "--format", "json")
    assert code == machine == 4
    assert out.startswith("NOT ACCEPTABLE: ")
    assert failure in " ".join(out.split())
    assert any(failure in each for each in json.loads(told)["failures"])
    assert json.loads(told)["verdict"] == "not acceptable"


def test_every_failed_check_is_listed(capsys, charter):
    with serving(SimulatedAttester(measurement=bytes(48), platform=bytes(32), svn=0, debug=True)) as at:
        code, out, _ = run(capsys, "verify", ADDRESS, "--charter", charter, "--at", at, "--format", "json")
    failures = json.loads(out)["failures"]
    assert code == 4
    assert len(failures) == 4
    for part in ("proves nothing", "being debugged", "measurement is", "svn is 0, below 1"):
        assert sum(part in failure for failure in failures) == 1


def test_an_aggregator_under_another_charter(capsys, charter):
    with serving(text=CHARTER.replace("rounds = 10", "rounds = 11")) as at:
        code, out, _ = run(capsys, "verify", ADDRESS, "--charter", charter, "--at", at, "--accept-simulated")
    assert code == 4
    assert "another charter" in out


class Forger:
    """An attester whose evidence is not what it should be."""

    tee = "simulated"

    def __init__(self, spoil: Any) -> None:
        self._spoil = spoil

    def evidence(self, report_data: bytes) -> Evidence:
        return Evidence(tee="simulated", quote=self._spoil(ATTESTER.evidence(report_data).quote))


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (lambda quote: quote[:-1] + bytes([quote[-1] ^ 1]), "not genuine"),
        (lambda quote: quote[:-1], "no evidence"),
    ],
)
def test_an_aggregator_whose_evidence_is_forged_or_broken(capsys, charter, spoil, verdict):
    with serving(Forger(spoil)) as at:
        words = ["verify", ADDRESS, "--charter", charter, "--at", at, "--accept-simulated", "--format", "json"]
        code, out, _ = run(capsys, *words)
    assert (code, json.loads(out)["verdict"]) == (2, verdict)


def test_an_aggregator_that_cannot_be_reached(capsys, charter):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        code, out, _ = run(capsys, "verify", ADDRESS, "--charter", charter, "--at", at)
        machine, told, _ = run(capsys, "verify", ADDRESS, "--charter", charter, "--at", at, "--format", "json")
    assert code == machine == 3
    assert out.startswith("NOT ACCEPTABLE, UNDECIDED: ")
    assert json.loads(told)["verdict"] == "undecided"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["verify"],
        ["verify", ADDRESS],
        ["verify", ADDRESS, "--charter", "missing.toml"],
        ["verify", ADDRESS, "--charter", "{charter}", "--now", "yesterday"],
        ["verify", ADDRESS, "--charter", "{charter}", "--now", "2026-01-01"],
        ["verify", ADDRESS, "--charter", "{charter}", "--now", "9" * 30],
        ["verify", ADDRESS, "--charter", "{charter}", "--now", "2100-01-01T00:00:00Z"],
        ["verify", ADDRESS, "--charter", "{charter}", "--key", "missing.key"],
        ["verify", ADDRESS, "--charter", "{charter}", "--format", "xml"],
        ["verify", "other.example:7443", "--charter", "{charter}"],
        ["show"],
        ["show", "missing.bin"],
        ["show", "{charter}", "--nonsense"],
        ["measure", "everything"],
        ["verfy"],
    ],
    ids=" ".join,
)
def test_misuse(capsys, charter, words):
    code, out, err = run(capsys, *(word.format(charter=charter) for word in words))
    assert code == 1
    assert "ACCEPTABLE" not in out
    assert err or "Usage" in out


def test_a_faulty_charter_is_misuse(capsys, charter):
    charter.write_text(CHARTER.replace("serial = 1", 'serial = "one"'), encoding="utf-8")
    code, _, err = run(capsys, "verify", ADDRESS, "--charter", charter)
    assert code == 1
    assert "serial" in err


def test_help_is_no_misuse(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(verb in out for verb in ("verify", "show", "measure"))


# show


def write(folder: Path, data: bytes) -> Path:
    path = folder / "evidence.bin"
    path.write_bytes(data)
    return path


SIMULATED = simulated_report.make(bytes(64), measurement=MEASUREMENT, platform=bytes(32))


@pytest.mark.parametrize(
    "data", [SIMULATED, evidence_form.encode(Evidence(tee="simulated", quote=SIMULATED))], ids=["report", "evidence"]
)
def test_show_a_simulated_report(capsys, tmp_path, data):
    code, out, _ = run(capsys, "show", write(tmp_path, data))
    assert code == 0
    assert out.startswith("NOT VERIFIED: ")
    assert MEASUREMENT.hex() in out
    assert "simulated TEE (proves nothing)" in out


@needs_vectors
@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("sgx-v3-swhardening-2025", ["Intel SGX", "mr_enclave", "isv_prod_id", "ppid                   186950b6"]),
        ("tdx-v4-uptodate-2025", ["Intel TDX", "rt_mr3", "ppid                   811dca2a"]),
        ("tdx-v5-td15ex-uptodate", ["Intel TDX", "mr_seam"]),
        ("sgx-v3-debug", ["debug                  yes"]),
        ("tdx-v4-debug", ["debug                  yes"]),
    ],
)
def test_show_a_quote(capsys, tmp_path, name, fragments):
    code, out, _ = run(capsys, "show", write(tmp_path, dcap(name).quote))
    assert code == 0
    assert out.startswith("NOT VERIFIED: ")
    assert [fragment for fragment in fragments if fragment not in out] == []


@needs_vectors
@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("Milan_VCEK_v3_0fb10950", ["AMD SEV-SNP", "Milan", "vcek", "debug                  no"]),
        ("Milan_VCEK_v2_de87fc1a", ["debug                  yes"]),
        ("Milan_VLEK_v3_baccec91", ["vlek", "vmpl                   1"]),
        ("Turin_VCEK_v5_b6e4357b", ["Turin", "fmc"]),
    ],
)
def test_show_a_report(capsys, tmp_path, name, fragments):
    code, out, _ = run(capsys, "show", write(tmp_path, snp(name).report))
    assert code == 0
    assert out.startswith("NOT VERIFIED: ")
    assert [fragment for fragment in fragments if fragment not in out] == []


@needs_vectors
@pytest.mark.parametrize("name", ["ccc-gramine-cert", "ccc-rats-tls-cert"])
def test_show_an_ra_tls_certificate(capsys, tmp_path, name):
    der = ratls(name)
    pem = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"
    code, out, _ = run(capsys, "show", write(tmp_path, der))
    assert code == 0
    assert "RA-TLS certificate" in out
    assert "It holds no nonce" in out
    assert "Intel SGX" in out
    assert (code, out) == run(capsys, "show", write(tmp_path, pem), "--now", told_at(out))[:2]


def told_at(page: str) -> str:
    """The time on a page, as an option."""
    line = next(line for line in page.splitlines() if "checked at" in line)
    return line.split("checked at")[1].strip().replace(" UTC", "+00:00").replace(" ", "T")


@pytest.mark.slow
@needs_vectors
@pytest.mark.parametrize(
    ("name", "later", "code", "verdict"),
    [
        ("sgx-v3-swhardening-2025", 0, 0, "genuine"),
        ("sgx-v3-swhardening-2025", 400, 3, "undecided"),
        ("tdx-v4-uptodate-2025", 0, 0, "genuine"),
        ("tdx-v4-outofdate", 0, 0, "genuine"),
        ("tdx-v4-uptodate-2025", -4000, 3, "undecided"),
        ("sgx-v3-debug", 0, 4, "not acceptable"),
        ("tdx-v4-debug", 0, 4, "not acceptable"),
    ],
)
def test_show_verifies_where_collateral_is_given(capsys, tmp_path, name, later, code, verdict):
    vector = dcap(name)
    bundle = tmp_path / "collateral.json"
    bundle.write_bytes(vector.collateral_json)
    words = ["show", write(tmp_path, vector.quote), "--collateral", bundle]
    words += ["--now", (vector.now + timedelta(days=later)).isoformat(), "--format", "json"]
    found, out, _ = run(capsys, *words)
    told = json.loads(out)
    assert (found, told["verdict"]) == (code, verdict)
    if verdict == "genuine":
        assert any("no nonce of yours" in caveat for caveat in told["does_not_prove"])
        assert (told["tcb"]["status"], tuple(told["tcb"]["advisories"])) == (vector.status, vector.advisories)
    else:
        assert told["failures"]
        assert told["software"] is not None  # what it says of itself is shown with the refusal


@needs_vectors
def test_show_tells_a_forged_quote(capsys, tmp_path):
    vector = dcap("tdx-v4-uptodate-2025")
    forged = bytearray(vector.quote)
    forged[200] ^= 1  # in the measured module
    bundle = tmp_path / "collateral.json"
    bundle.write_bytes(vector.collateral_json)
    words = ["show", write(tmp_path, bytes(forged)), "--collateral", bundle, "--now", vector.now.isoformat()]
    code, out, _ = run(capsys, *words)
    assert code == 2
    assert out.startswith("NOT ACCEPTABLE, NOT GENUINE: ")


@needs_vectors
def test_show_verifies_an_snp_report(capsys, tmp_path):
    vector = snp("Genoa_VCEK_v3_9d5745e3")
    bundle = tmp_path / "collateral.json"
    bundle.write_bytes(SnpCollateral(vek=vector.vek, ask=vector.ask, ark=vector.ark, crl=None).encode())
    words = ["show", write(tmp_path, vector.report), "--collateral", bundle, "--now", vector.now.isoformat()]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.startswith("GENUINE: ")
    assert "unknown: no CRL" in out


@needs_vectors
def test_show_with_collateral_that_is_none(capsys, tmp_path):
    vector = dcap("tdx-v4-uptodate-2025")
    bundle = tmp_path / "collateral.json"
    bundle.write_bytes(b"{}")
    code, out, _ = run(capsys, "show", write(tmp_path, vector.quote), "--collateral", bundle)
    assert code == 3
    assert out.startswith("NOT ACCEPTABLE, UNDECIDED: ")


def hostile() -> Iterator[bytes]:
    """Files that begin as evidence and go on as noise, and plain noise."""
    chance = random.Random(7)
    starts = [
        b"",
        b"\x03\x00\x02\x00",
        b"\x04\x00\x02\x00\x81\x00\x00\x00",
        b"\x02\x00\x00\x00",
        b"\x30\x82\x01\x00",
        b"\x93\xa3sgx\xc4",
        b"cloister sim TEE",
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ]
    for start in starts:
        for size in (0, 1, 50, 1184 - len(start), 5000):
            yield start + chance.randbytes(size)


@pytest.mark.slow
def test_hostile_files_get_a_sentence(capsys, tmp_path):
    for number, data in enumerate(hostile()):
        code, out, err = run(capsys, "show", write(tmp_path, data))
        assert (code, err) == (2, ""), number
        assert out.startswith("NOT ACCEPTABLE: there is no evidence")
        assert all(line.isprintable() for line in out.splitlines())


def test_a_huge_file_is_no_evidence(capsys, tmp_path):
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        file.truncate(1 << 36)  # sparse
    code, out, _ = run(capsys, "show", path)
    assert code == 2
    assert "no evidence" in out


def test_what_is_no_file_is_misuse(capsys, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        code, out, err = run(capsys, "show", path)
        assert (code, out) == (1, "")
        assert "no regular file" in err


def test_escape_sequences_from_outside_are_not_printed(capsys, charter):
    class Shouter:
        tee = "simulated"

        def evidence(self, report_data: bytes) -> Evidence:
            from cloister.errors import NoTeeError

            raise NoTeeError("\x1b[2J\x1b[1mACCEPTABLE")

    with serving(Shouter()) as at:
        code, out, err = run(capsys, "verify", ADDRESS, "--charter", charter, "--at", at, "--accept-simulated")
    assert code == 2
    assert "\x1b" not in out + err
    assert "\\x1b[2J" in out
    assert out.startswith("NOT ACCEPTABLE")


def test_escape_sequences_in_a_name_are_not_printed(capsys):
    code, out, err = run(capsys, "show", "\x1b[2Jmissing.bin")
    assert code == 1
    assert "\x1b" not in out + err
    assert "\\x1b[2Jmissing.bin cannot be read" in err


def test_escape_sequences_in_a_charter_are_not_printed(capsys, charter):
    charter.write_text(CHARTER + '"\\u001b[2J" = 1\n', encoding="utf-8")
    code, out, err = run(capsys, "verify", ADDRESS, "--charter", charter)
    assert code == 1
    assert "\x1b" not in out + err
    assert "x1b[2J" in err


# measure


def test_measure_gives_an_entry_for_a_charter(capsys):
    code, entry, _ = run(capsys, "measure")
    assert code == 0
    start, end = CHARTER.index("[[software]]"), CHARTER.index("[limits]")
    charter = parse_charter(CHARTER[:start] + entry + CHARTER[end:])
    measured = SimulatedAttester.start("aggregator")
    (found,) = charter.reference
    assert found.tee == "simulated"
    assert found.measurement == {measured.measurement}
    with serving(measured, text=CHARTER[:start] + entry + CHARTER[end:]) as at:
        assert at


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (EvidenceError("it does not decode"), 2),
        (NotGenuineError("forged"), 2),
        (CollateralError("expired"), 3),
        (UnacceptableError(["debug"]), 4),
    ],
)
def test_refused_evidence_has_these_codes_everywhere(fault, code):
    from cloister.cli.main import exit_code

    assert exit_code(fault) == code


def test_the_time_of_a_page_is_now(capsys, tmp_path):
    _, out, _ = run(capsys, "show", write(tmp_path, SIMULATED))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(told_at(out))) < timedelta(minutes=2)
