"""What a charter gives up: read by those who write, sign or judge one, and nothing that running under it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloister.attest.reference import DcapFloor, Entry, SgxEntry, SimulatedEntry, SnpEntry, TdxEntry
from cloister.attest.reference_toml import STATUSES
from cloister.charter.charter import MIN_BATCH, MIN_ROWS, Charter
from cloister.charter.names import shown
from cloister.wire.text import exact

_HARMLESS: Final = frozenset({"UpToDate", "SWHardeningNeeded"})
_LITTLE_NOISE: Final = 2.0
"""Noise of less than twice what it hides leaves membership to good guessers, within few rounds."""
_LONG_DAYS: Final = 400
_FEW_DAYS: Final = 14
"""To notice that somebody calls one's key lost, holidays included."""


def warnings_of(charter: Charter) -> list[str]:
    """What a charter leaves open, a sentence each; nothing where it is as tight as a charter can be."""
    holes = [f"{shown(entry.name)}: {hole}" for entry in charter.reference for hole in _entry(entry)]
    return [*_limits(charter), *holes]


def _limits(charter: Charter) -> Iterator[str]:
    limits, owners = charter.limits, len(charter.owners)
    if limits.interactive:
        yield (
            "interactive: researchers compute with contributions one operation after another, and neither clip nor"
            " noise applies to that; the owners trust the researchers"
        )
    if not charter.researchers:
        yield "nobody is a researcher: no one can submit a job"
    if not charter.jobs and not limits.interactive:
        yield "no job is named: nothing can be computed under this charter"
    yield from _ids(charter)
    yield from _jobs(charter)
    yield from _noise(charter)
    if limits.floor == 2:
        behind = "" if limits.noise is None else ", as far as the noise lets it"
        yield f"floor = 2: in an aggregate of two, each member can take away its own part and see the other's{behind}"
    if owners == limits.floor:
        yield f"there are {owners} owners and the floor is {limits.floor}: one that is away stops every round"
    if limits.largest_share > 0.5:
        yield f"largest_share = {exact(limits.largest_share)}: one member may be more than half of an aggregate"
    if 0 < limits.lost_key_days < _FEW_DAYS:
        yield (
            f"lost_key_days = {limits.lost_key_days}: an owner whose key is called lost, and is not, has that time to"
            " notice"
        )
    days = (charter.not_after - charter.not_before).days
    if days > _LONG_DAYS:
        yield f"it is valid for {days} days: software that turns out to be faulty stays acceptable as long"


def _noise(charter: Charter) -> Iterator[str]:
    noise = charter.limits.noise
    if noise is None:
        yield "no noise: an aggregate is exact, also about an outlier among the contributions"
        return
    if noise.multiplier < _LITTLE_NOISE:
        yield (
            f"noise: {exact(noise.multiplier)} times what it hides, and less than {_LITTLE_NOISE:g}: whether a record"
            " took part can be guessed from one round well above chance, also where nobody can read it back"
        )
    least, told = charter.limits.min_examples, "min_examples"
    if noise.unit == "owner":
        least, told = len(charter.owners), "the number of owners"
    if noise.delta * least >= 1:
        yield (
            f"noise: delta = {exact(noise.delta)} is not below 1 / {told}, 1 / {least}: to tell all of one {noise.unit}"
            " in so many would keep it; take a smaller delta"
        )


def _ids(charter: Charter) -> Iterator[str]:
    for member in charter.members:
        if member.id != member.key:
            yield (
                f"{shown(member.name)} is known by the id of an older key: {member.id}; it counts as the same member as"
                " whoever had that key, so ask whether both are"
            )


def _jobs(charter: Charter) -> Iterator[str]:
    limits = charter.limits
    if not _hides_records(charter):
        yield from _single_rows(charter)
    for job in charter.jobs:
        drawn = job.sampling
        if drawn is not None and drawn.rate * limits.min_examples > drawn.rows:
            yield (
                f"job {shown(job.name)}: at the rate {exact(drawn.rate)}, more of min_examples rows,"
                f" {limits.min_examples}, would be drawn than the {drawn.rows} that it expects of all owners together:"
                " none could take part; rows is about rate times the rows of all owners"
            )
        if job.weights == "rows":
            yield (
                f"job {shown(job.name)}: weights by rows: an owner with many counts for more, up to"
                f" {exact(limits.largest_share)}, and its rows are told in buckets"
            )
        if job.unsafe_lr is not None:
            yield (
                f"job {shown(job.name)}: lr = {exact(job.optimizer.lr)} is out of its bounds, for this reason:"
                f" {shown(job.unsafe_lr)}"
            )


def _hides_records(charter: Charter) -> bool:
    """Whether noise bounds what single rows can be made to tell, whatever model and plan do with them."""
    noise = charter.limits.noise
    return noise is not None and noise.unit == "record" and noise.multiplier >= _LITTLE_NOISE


def _single_rows(charter: Charter) -> Iterator[str]:
    limits = charter.limits
    if limits.min_batch < MIN_BATCH:
        yield (
            f"min_batch = {limits.min_batch}: the fewer rows a step has, the more of one row is in it; below"
            f" {MIN_BATCH} single rows have been read from a first model's step"
        )
    if limits.min_rows < MIN_ROWS:
        yield (
            f"min_rows = {limits.min_rows}: the fewer rows count in a contribution, the more of one row is in it; below"
            f" {MIN_ROWS} single rows have been read from a trained model's round"
        )
    if charter.jobs and not charter.recipe and limits.first_model_file is None:
        yield (
            "first_model: its values are the researcher's choice, and weights can be chosen so that single rows are"
            " read from the first updates; have it drawn by a recipe ([[first_model]]), or look for traps with"
            " `cloister study show`"
        )
    if charter.jobs and not limits.proven_plans:
        yield (
            "proven_plans is false: nodes run the jobs' plans whatever they do with single rows; look at each with"
            " `cloister study show`"
        )


def _entry(entry: Entry) -> Iterator[str]:
    match entry:
        case SimulatedEntry():
            yield "a simulated TEE proves nothing: anyone can claim this measurement; for rehearsals only"
            return
        case SgxEntry():
            yield from _open(entry, ("mr_enclave",))
            if entry.isv_prod_id == "any":
                yield "isv_prod_id is any: each product of that signer is accepted"
            yield from _dcap(entry.tcb)
        case TdxEntry():
            registers = ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_config_id", "mr_owner", "mr_owner_config")
            yield from _open(entry, registers)
            yield from _dcap(entry.tcb)
        case SnpEntry():
            yield from _open(entry, ("measurement", "host_data", "id_key_digest", "author_key_digest"))
            if entry.unsafe_no_revocation:
                yield "unsafe_no_revocation: a signer that AMD has revoked is accepted where no CRL is at hand"
            if entry.allow_smt:
                yield "allow_smt: whoever shares a core with the guest can learn from its timing"
    if entry.platforms == "any":
        yield "platforms is any: every machine with such a TEE, also one that its holder can open or whose key leaked"


def _open(entry: Entry, names: tuple[str, ...]) -> Iterator[str]:
    found = [name for name in names if getattr(entry, name) == "any"]
    if found == list(names[:1]) and names[0] == "mr_enclave":
        yield "mr_enclave is any: all software of that signer, now and later"
    elif found:
        yield f"not checked: {', '.join(found)}"


def _dcap(floor: DcapFloor) -> Iterator[str]:
    worse = [status for status in STATUSES if status in floor.allowed_status - _HARMLESS]
    if worse:
        yield f"allowed_status names {', '.join(worse)}: platforms with known weaknesses are accepted"
    if floor.allowed_advisories == "any":
        yield "allowed_advisories is any: so are weaknesses that Intel has yet to tell"
    if floor.min_eval_number == 0:
        yield "min_eval_number is 0: a host may show Intel's judgement from before the latest weaknesses were known"
