"""Charters made on the spot, for tests, measurements and demonstrations: the software in them is a simulated TEE's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloister.attest.attester.measure import measure
from cloister.charter import Charter, jobs_toml
from cloister.charter.charter import Noise
from cloister.charter.jobs import AgreedJob
from cloister.charter.signatures import encode, sign
from cloister.charter.toml import parse_charter
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
    largest_share: float = 1.0,
    clip: float = 10.0,
    rounds: int = 100,
    min_examples: int = 1,
    min_batch: int = 16,
    min_rows: int = 32,
    clip_buffers: float | None = None,
    home_buffers: bool = False,
    row_buckets: Sequence[int] = (),
    jobs: Sequence[AgreedJob] = (),
    bases: Mapping[str, Sequence[bytes]] | None = None,
    first_model: bytes | Callable[[Path], bytes] | None = None,
    recipe: str = "",
    metrics: Mapping[str, tuple[float, float]] | None = None,
    lost_key_days: int = 0,
    noise: Noise | None = None,
    now: datetime | None = None,
) -> Charter:
    """Writes a charter for a simulated aggregator, and returns it.

    Args:
        members: a name, its role, its identity.
        measurements: of the software, 48 bytes each; None: of the aggregator that this installation would run.
        floor: None: all owners.
        jobs: what may be computed, as ``cloister.job`` makes them; with some of them there is a first model.
        bases: the digests of each base's files, by its name.
        first_model: its digest, 32 bytes; or what finds it from the file, in which it is the last thing missing.
        recipe: what the first model is drawn from, as ``cloister.recipe_toml`` writes it.
        metrics: the range of each number that may come out beside a model, by its name.
    """
    owners = sum(role == "owner" for role, _ in members.values())
    start = (now or datetime.now(UTC)).replace(microsecond=0) - timedelta(hours=1)
    software = [measure("aggregator")] if measurements is None else measurements
    # A JSON text is also a TOML one.
    lines = [
        'format = "cloister charter 4"',
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
    lines += ["[limits]", f"floor = {owners if floor is None else floor}", f"largest_share = {float(largest_share)}"]
    lines += [
        f"clip = {float(clip)}",
        f"noise = {noise_toml(noise)}",
        f"rounds = {rounds}",
        f"min_examples = {min_examples}",
    ]
    lines += [f"min_batch = {min_batch}", f"min_rows = {min_rows}", f"row_buckets = {json.dumps(list(row_buckets))}"]
    lines += [] if clip_buffers is None else [f"clip_buffers = {float(clip_buffers)}"]
    lines += ["home_buffers = true"] if home_buffers else []
    lines += [f"interactive = {json.dumps(interactive)}"]
    lines += [f"lost_key_days = {lost_key_days}"]
    for metric, (low, high) in (metrics or {}).items():
        lines += ["[[limits.metrics]]", f"name = {json.dumps(metric)}", f"low = {float(low)}", f"high = {float(high)}"]
    for base, files in (bases or {}).items():
        lines += ["[[bases]]", f"name = {json.dumps(base)}", f"files = {json.dumps([each.hex() for each in files])}"]
    text = "\n".join([*lines, *map(jobs_toml.job_toml, jobs), recipe, ""])
    if first_model is not None:
        file.write_text(text, encoding="utf-8")
        digest = first_model if isinstance(first_model, bytes) else first_model(file)
        text = text.replace("[limits]\n", f'[limits]\nfirst_model = "{digest.hex()}"\n', 1)
    file.write_text(text, encoding="utf-8")
    return parse_charter(text, source=str(file))


def noise_toml(noise: Noise | None) -> str:
    """A charter's noise as it stands in the file."""
    if noise is None:
        return '"none"'
    return f'{{ unit = "{noise.unit}", multiplier = {noise.multiplier!r}, delta = {noise.delta!r} }}'


def sign_charter(charter: Charter, signatures: Path, *, signers: Mapping[str, Identity]) -> None:
    """Signs a charter for each of ``signers``, by the members' names; the files go to the folder ``signatures``."""
    signatures.mkdir(exist_ok=True)
    for name, identity in signers.items():
        signature = sign(charter, key=private_key(identity.path))
        (signatures / f"{name}.sig").write_text(encode(signature), encoding="utf-8")
