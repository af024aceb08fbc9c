"""How much of cloister an aggregator's process holds: what whoever reviews it, or measures it, has to read."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

LOADED = """
import json, sys
import cloister.charter.reading
from cloister.cli.aggregator import serve
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""
NEEDLESS = (
    "attest.dcap",
    "attest.snp",
    "attest.verifier",
    "net.client",
    "net.attested",
    "node",
    "worker",
    "tensor",
    "study",
)
STUDIES = ("aggregator", "enclave")
LIMIT = 3000
"""For what was written for studies; and what holds for all of it is that it does not grow unseen."""
ALL = 6000


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_what_an_aggregator_holds() -> None:
    """All of cloister that `cloister aggregator serve` loads for a closed charter, but for the command line itself."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded: dict[str, str | None] = json.loads(done.stdout)
    own = {
        name.removeprefix("cloister."): Path(file)
        for name, file in loaded.items()
        if file and name.startswith("cloister.") and not name.startswith("cloister.cli")
    }
    counts: Counter[str] = Counter()
    for name, path in own.items():
        counts[name.partition(".")[0]] += code_lines(path)
    print(dict(counts), "in all", counts.total())
    assert "torch" not in loaded
    assert not [name for name in own if name.startswith(NEEDLESS)]
    assert 0 < sum(counts[package] for package in STUDIES) < LIMIT
    assert counts.total() < ALL
