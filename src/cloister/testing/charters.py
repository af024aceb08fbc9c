"""Charters made on the spot, for tests, measurements and demonstrations: the software in them is a simulated TEE's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloister.attest.attester import measure
from cloister.charter import Charter
from cloister.charter.signatures import encode, sign
from cloister.net.identity import Identity, private_key


def write_charter(
    file: Path,
    *,
    members: Mapping[str, tuple[str, Identity]],
    addresses: Sequence[str],
    measurements: Sequence[bytes] | None = None,
    name: str = "rehearsal",
    interactive: bool = True,
    serial: int = 1,
    supersedes: bytes | None = None,
    floor: int | None = None,
    now: datetime | None = None,
) -> Charter:
    """Writes a charter for a simulated aggregator, and returns it. ``members``: a name, its role, its identity.

    ``measurements``: of the software, 48 bytes each; None: of the aggregator that this installation would run.
    """
    owners = sum(role == "owner" for role, _ in members.values())
    start = (now or datetime.now(UTC)).replace(microsecond=0) - timedelta(hours=1)
    software = [measure("aggregator")] if measurements is None else measurements
    # A JSON text is also a TOML one.
    lines = [
        'format = "cloister charter 1"',
        f"name = {json.dumps(name)}",
        f"serial = {serial}",
        *([] if supersedes is None else [f'supersedes = "{supersedes.hex()}"']),
        f"not_before = {start.isoformat()}",
        f"not_after = {(start + timedelta(days=30)).isoformat()}",
    ]
    for member, (role, identity) in members.items():
        lines += ["[[members]]", f"name = {json.dumps(member)}", f'role = "{role}"', f'key = "{identity.fingerprint}"']
    lines += ["[aggregator]", f"addresses = {json.dumps(list(addresses))}"]
    lines += ["[[software]]", 'name = "aggregator"', 'tee = "simulated"']
    lines += [f"measurement = {json.dumps([each.hex() for each in software])}", "min_svn = 1", 'platforms = "any"']
    lines += ["[limits]", f"floor = {owners if floor is None else floor}", "largest_share = 1.0", "clip = 10.0"]
    lines += ['noise = "none"', "rounds = 100", "min_examples = 1", "plans = []"]
    lines += [f"interactive = {json.dumps(interactive)}"]
    text = "\n".join([*lines, ""])
    file.write_text(text, encoding="utf-8")
    return Charter.parse(text, source=str(file))


def sign_charter(charter: Charter, signatures: Path, *, signers: Mapping[str, Identity]) -> None:
    """Signs a charter for each of ``signers``, by the members' names; the files go to the folder ``signatures``."""
    signatures.mkdir(exist_ok=True)
    for name, identity in signers.items():
        signature = sign(charter, key=private_key(identity.path))
        (signatures / f"{name}.sig").write_text(encode(signature), encoding="utf-8")
