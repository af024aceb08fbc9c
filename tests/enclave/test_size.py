"""How much of cloister an aggregator's process holds: what whoever reviews it, or measures it, has to read.

Each test prints the list, the largest module first; ``pytest -s`` shows it.
"""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.attest.attester.measure import measure
from cloister.charter.toml import parse_charter
from tests.support.charters import SIMULATED, text

PROGRAM = """
import json, sys
from pathlib import Path
import cloister.enclave.__main__
from cloister.enclave.setup import Instance, aggregator_of, instance_of, read_charter

tee, folder = sys.argv[1], Path(sys.argv[2])
agreed = read_charter(folder / "charter.cbor")
if tee == "simulated":
    instance = instance_of(agreed, tee="simulated", name=None)
else:
    if tee == "sgx":
        from cloister.attest.attester import find
        attester = find("auto", device=folder)
    else:  # a guest's configfs, which only Linux makes: its attester is taken without being asked what it is in
        from cloister.attest.attester.tsm import TsmAttester
        attester = TsmAttester(tee="snp", reports=folder)
    instance = Instance(role="aggregator", attester=attester, charter=agreed.digest, name=agreed.addresses[0])
service = aggregator_of(agreed, instance=instance, listen="127.0.0.1:0", collateral=None)
service.serve(ready=service.stop)
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""
"""What ``python -m cloister.enclave`` does, from its command line to its last connection."""

NEEDLESS = (
    "aggregation.group_mean",
    "cli",
    "attest.appraisal",
    "attest.claims",
    "attest.reference_toml",
    "attest.dcap",
    "attest.hpke",
    "attest.received",
    "attest.snp",
    "attest.verifier",
    "charter.signatures",
    "charter.toml",
    "charter.warnings",
    "net.attested",
    "ledger.audit",
    "ledger.following",
    "ledger.jsonl",
    "net.client",
    "net.contexts",
    "net.dial",
    "net.files",
    "net.handshake_client",
    "net.identity",
    "net.secrets",
    "node",
    "study",
    "tables",
    "tensor",
    "wire.round_bodies",
    "wire.sessions",
    "worker",
)
FOREIGN = {"dcap_qvl", "rich", "torch", "typer"}
"""What others wrote, and an aggregator has no use for."""

ATTESTERS = {"guest": "tsm", "sgx": "gramine", "simulated": "simulated"}
STUDIES = ("aggregation", "ledger", "aggregator", "enclave")
LIMIT = 3900
"""For what was written for studies; and what holds for all of it is that it does not grow unseen."""
ALL = {"guest": 7400, "sgx": 7310, "simulated": 7320}
LATER = {
    "attest.attester": "of three attesters one is loaded",
    "charter.signatures": "looks at the signatures that --signatures names",
    "net.signatures": "reads them",
    "attest.dcap.collateral": "reads the file that --collateral names",
}
"""What a loaded module imports later, inside a function, and is not counted here; and when it does."""


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    source = path.read_text(encoding="utf-8")
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def imported_later(path: Path) -> Iterator[str]:
    """The modules of cloister that functions in the file at ``path`` import."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cloister."):
                    yield (node.module or "").removeprefix("cloister.")


def loaded_for(tee: str, folder: Path) -> dict[str, str | None]:
    """Every module in the process of an aggregator in that TEE, with its file."""
    listed = SIMULATED.replace("5a" * 48, measure("aggregator").hex())
    written = text(interactive="false", software=listed).replace("not_after = 2027", "not_after = 2127")
    (folder / "charter.cbor").write_bytes(parse_charter(written).encoded)
    (folder / "attestation_type").write_text("dcap", encoding="utf-8")  # Gramine's
    arguments = [sys.executable, "-c", PROGRAM, tee, str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    loaded: dict[str, str | None] = json.loads(done.stdout)
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("tee", ATTESTERS)
def test_what_an_aggregator_holds(tee: str, tmp_path: Path) -> None:
    """All of cloister that runs once it serves."""
    loaded = loaded_for(tee, tmp_path)
    own = {
        name.removeprefix("cloister").removeprefix(".") or "__init__": Path(file)
        for name, file in loaded.items()
        if file and name.partition(".")[0] == "cloister"
    }
    sizes = {name: code_lines(path) for name, path in own.items()}
    counts: Counter[str] = Counter()
    for name, size in sizes.items():
        counts[name.partition(".")[0]] += size
    print(f"{tee}: {counts.total()} lines of code")
    for name, size in sorted(sizes.items(), key=lambda each: (-each[1], each[0])):
        print(f"{size:6}  {name}")
    assert not FOREIGN & loaded.keys()
    assert not [name for name in own if name.startswith(NEEDLESS)]
    attesters = {f"attest.attester.{name}" for name in ATTESTERS.values()}
    assert attesters & own.keys() == {f"attest.attester.{ATTESTERS[tee]}"}
    later = {name for module, path in own.items() if module != "__init__" for name in imported_later(path)}
    assert not [name for name in later - own.keys() if not name.startswith(tuple(LATER))]
    assert 0 < sum(counts[package] for package in STUDIES) < LIMIT
    assert counts.total() < ALL[tee]
