"""Every parser of a file or message is bounded in bytes, time and memory before it starts.

``PARSERS`` is the list of them: every place in the package where something from outside is opened or read by somebody's
parser, and what bounds it there: a case of ``worst_inputs``, or a reason. A place that does not stand in it fails.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest

from cloister.attest import cbor
from tests.worst_inputs import CASES, CPU_S, MEMORY_BYTES

SOURCE = Path(__file__).parents[1] / "src" / "cloister"

PARSING = {
    *("open", "fdopen", "read_bytes", "raw_decode", "Decoder", "JSONDecoder", "CBORDecoder", "ZipFile", "safe_open"),
    *("ParquetFile", "parse_quote", "literal_eval", "HTTPResponse", "mmap", "load_cert_chain", "findall", "search"),
}
"""Functions that open something or parse it, by the last word of the call."""
PARSING_OF = {
    *("tomllib.loads", "json.loads", "json.load", "cbor2.loads", "cbor2.load", "np.load", "sqlite3.connect"),
    *("msgspec.json.decode", "msgspec.msgpack.decode", "msgspec.toml.decode", "msgspec.yaml.decode", "dcap_qvl.verify"),
}
"""The same, where the last word alone says too little."""
READ_TEXT = ("files.read_text", "config.read_text", "read_text")
"""What reads a text within a bound; a method of this name does not."""

OWN = "this process's own, or its parent's"
WRITES = "writes"
NOT_IT = "opens no file"
PARSERS = {
    "ledger/learned.py: msgspec.msgpack.Decoder": "what a plan learns",
    "ledger/job.py: msgspec.msgpack.Decoder": "job",
    "ledger/answers.py: msgspec.msgpack.Decoder": "answer",
    "ledger/jsonl.py: json.loads": "chain",
    "ledger/records.py: msgspec.msgpack.Decoder 2": "record, cohort",
    "attest/attester/files.py: os.open": "the kernel's, within a TEE; every read has a limit (tests/attest/attester)",
    "attest/attester/measure.py: Path('/proc/self/maps').read_text": OWN,
    "attest/attester/measure.py: installed.read_text": OWN,
    "attest/attester/measure.py: path.open": OWN,
    "attest/cbor.py: cbor2.CBORDecoder": "cbor, transcript, encoded charter",
    "attest/dcap/collateral.py: json.loads": "collateral's form",
    "attest/dcap/verify.py: msgspec.json.decode": "what dcap-qvl says in this process, of parts that are bounded",
    "attest/dcap/verify.py: dcap_qvl.QuoteVerifier(root).verify_with_policy": "parts read before: quote, collateral",
    "attest/dcap/published.py: msgspec.json.decode": "collateral",
    "attest/dcap/published.py: x509.load_der_x509_crl": "collateral",
    "attest/dcap/published.py: x509.load_pem_x509_certificates": "collateral",
    "attest/dcap/errors.py: x509.load_der_x509_certificate": OWN,
    "attest/dcap/errors.py: x509.load_der_x509_crl 2": "collateral",
    "attest/dcap/errors.py: x509.load_pem_x509_certificates": "quote",
    "attest/received.py: msgspec.msgpack.Decoder": "evidence",
    "attest/ratls.py: load_der_public_key": "ra-tls",
    "attest/inspect.py: dcap_qvl.parse_quote": "attest show",
    "attest/snp/verify.py: load_der_public_key": "amd's certificates",
    "attest/snp/certificates.py: load_der_public_key": "amd's certificates",
    "charter/keys.py: load_der_public_key": "a member's key of at most 256 bytes, or in a signature of 4096",
    "cli/charter.py: path.open": WRITES,
    "cli/node.py: path.open": WRITES,
    "cli/study.py: file.open": WRITES,
    "cli/succession.py: out.open": WRITES,
    "demo/rollback.py: prover.open": NOT_IT,
    "demo/tampering.py: file.read_bytes": "the demo's own chain",
    "enclave/server.py: prover.open": NOT_IT,
    "tables.py: _LINE.search": "what tomllib says of a line, and nothing of the text",
    "files.py: os.fdopen": "file of text",
    "files.py: os.open": "file of text",
    "net/certificates.py: x509.load_der_x509_certificate": "peer's certificate",
    "net/collateral.py: json.loads": "collateral",
    "net/collateral.py: open": WRITES,
    "net/collateral.py: x509.load_der_x509_crl": "collateral",
    "net/contexts.py: context.load_cert_chain": "identity",
    "net/tls.py: context.load_cert_chain": OWN,
    "net/download.py: HTTPResponse": "bounded in bytes and in time as a whole (tests/net/test_download.py)",
    "net/identity.py: load_pem_private_key": "identity",
    "net/identity.py: open 2": WRITES,
    "net/identity.py: os.open": WRITES,
    "net/identity.py: x509.load_pem_x509_certificate": "identity",
    "net/pccs.py: _CERTIFICATE.findall": "pccs' chain",
    "net/pccs.py: _CERTIFICATE.search": "pccs' chain",
    "net/pccs.py: dcap_qvl.parse_quote": "attest show",
    "net/pccs.py: decoder.raw_decode 2": "pccs",
    "net/pccs.py: json.JSONDecoder": "pccs",
    "net/pccs.py: json.loads": "pccs",
    "node/lasting.py: os.open": "to have it on the disk; nothing is read",
    "node/confinement.py: open": OWN,
    "node/control.py: msgspec.json.Decoder 2": "a line, 4 KiB at most or 1 MiB (tests/node/test_control.py)",
    "node/control.py: os.open": "a folder, to name it; nothing is read",
    "node/session/executor_process.py: msgspec.json.decode 2": OWN,
    "node/landlock.py: os.open": "to name it; nothing is read",
    "node/ipc.py: mmap.mmap": OWN,
    "node/study/home.py: msgspec.msgpack.Decoder": "the node's own disk, a job's length at most",
    "node/study/model_file.py: os.fdopen": WRITES,
    "node/study/journal.py: msgspec.msgpack.Decoder": "the node's own disk, and hashes before it is read",
    "node/study/journal.py: os.open": "a lock; nothing is read",
    "node/study/journal.py: sqlite3.connect 2": "the node's own disk; SQLite refuses pipes, and trusts no schema",
    "node/study/data_memory.py: json.loads": "a mark of at most 8 KiB, which is read within that bound",
    "node/study/data_memory.py: os.fdopen": WRITES,
    "node/study/kept_file.py: os.fdopen": WRITES,
    "node/study/kept_file.py: os.open": "a folder, to have it on the disk; nothing is read",
    "node/study/data_memory.py: os.open": WRITES,
    "node/study/runner.py: memory.open": NOT_IT,
    "node/sealed_file.py: open": WRITES,
    "node/sealed_file.py: os.open": WRITES,
    "node/sealed_file.py: self._segments.open": NOT_IT,
    "node/sealed_file.py: target.open": WRITES,
    "node/server.py: child.open": NOT_IT,
    "node/server.py: prover.open": NOT_IT,
    "node/session/data_sets.py: safe_open": "safetensors",
    "node/study/trainer_process.py: msgspec.json.decode 2": OWN,
    "node/study/trainer_process.py: msgspec.msgpack.decode": OWN,
    "node/study/trainer.py: msgspec.msgpack.decode": "the header of a frame between processes, as messages are",
    "simulation/checkpoint.py: draft.open": WRITES,
    "simulation/checkpoint.py: msgspec.msgpack.decode": "safetensors of a run",
    "simulation/checkpoint.py: safe_open": "safetensors of a run",
    "study/state_dir.py: draft.open": WRITES,
    "study/state_dir.py: file.open": WRITES,
    "study/state_dir.py: os.open 2": "a lock; nothing is read",
    "study/state_dir.py: safe_open": "safetensors of a run",
    "study/writing.py: Path(path).open": WRITES,
    "study/study_file.py: msgspec.msgpack.Decoder": "study file",
    "tables.py: tomllib.loads": "toml, charter, node.toml, signature, digest of a configuration",
    "tensor/optable.py: _FILE.read_bytes": OWN,
    "tensor/optable.py: _FILE.read_text": OWN,
    "tensor/plan/encoding.py: msgspec.msgpack.Decoder": "plan",
    "testing/processes.py: log.open": WRITES,
    "testing/processes.py: self.log_file.read_text": "tests' own",
    "wire/messages.py: msgspec.msgpack.Decoder": "messages",
    "wire/text.py: _UNSEEN.search": "looks for one of some characters, in a text that is bounded already",
    "worker/executor.py: self._data_sets.search": NOT_IT,
    "worker/data/archives.py: archive.open": "npz, npz, at a node",
    "worker/data/archives.py: zipfile.ZipFile": "npz, npz, at a node",
    "worker/data/files.py: mmap.mmap": "npy, safetensors",
    "worker/data/headers.py: json.loads 2": "safetensors, weights",
    "worker/weights.py: mmap.mmap": "weights",
    "worker/data/parquet.py: arrow.parquet.ParquetFile": "parquet",
}


def parses(call: ast.Call) -> str | None:
    """The name of what is called, if that opens or parses something."""
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name == "files.opened" or name in READ_TEXT or name.startswith("re."):
        return None
    if last in PARSING or name in PARSING_OF or last.startswith(("load_pem", "load_der", "read_text", "verify_with")):
        return name
    return None


def found_in(source: Path) -> Iterator[str]:
    for path in sorted(source.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        counted = Counter(name for name in map(parses, calls) if name)
        for name, count in counted.items():
            yield f"{path.relative_to(source)}: {name}" + (f" {count}" if count > 1 else "")


@pytest.mark.slow
def test_every_parser_stands_in_the_table() -> None:
    found = set(found_in(SOURCE))
    assert not found - PARSERS.keys(), "say what bounds it in bytes, time and memory: a case, or a reason"
    assert not PARSERS.keys() - found, "these are gone; take them out"


def test_every_case_is_some_parsers() -> None:
    named = ", ".join(PARSERS.values())
    helpers = {"npy", "sealed file", "der", "amd's revocations", "address", "quote", "ra-tls"}  # parsers of our own
    assert not {case for case in CASES if case not in named} - helpers


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that has loaded everything, and measures the cases that it is told, a line each."""
    command = [sys.executable, "-m", "tests.worst_inputs", str(tmp_path_factory.mktemp("worst"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=SOURCE.parents[1]
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
@pytest.mark.timeout(600)  # it counts processor time, of which a busy machine gives little
def test_the_worst_takes_little(case: str, measuring: subprocess.Popen[str]) -> None:
    """Seconds of CPU and bytes of memory, in a process of its own; and one byte more than may be is refused unread."""
    assert measuring.stdin is not None
    assert measuring.stdout is not None
    measuring.stdin.write(f"{case}\n")
    told = json.loads(measuring.stdout.readline())
    print(told)
    assert told["inputs"]
    assert not told["faults"]
    assert told["cpu_s"] < CPU_S
    assert told["memory"] < MEMORY_BYTES
    if told["over"] is not None:
        assert told["over"]["refused"]
        assert told["over"]["cpu_s"] < 1.0
        assert told["over"]["memory"] < 4 << 20


@pytest.mark.slow
def test_cbor_has_no_tag_that_means_something() -> None:
    """Every tag that ``cbor2`` would act on is refused by name: a new one in a new version is found here."""
    for tag in [*range(1 << 16), 1 << 20, (1 << 32) - 1]:
        to_wire = cbor2.dumps(cbor2.CBORTag(tag, "a"))
        try:
            acted = type(cbor2.loads(to_wire)) is not cbor2.CBORTag
        except (cbor2.CBORDecodeError, ValueError, TypeError, LookupError):
            acted = True
        assert acted == (tag in cbor.KNOWN), tag
