"""A study file: its parts belong together, and its page says what an owner signs, without anybody's code."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.charter import Metric, Noise
from cloister.charter.charter import Base
from cloister.charter.jobs import Sampling
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, ConfigurationError, JobError, PlanError
from cloister.ledger.job import Based, Constant, Part, Tensors
from cloister.node.study.plan_check import check_proven
from cloister.study import study_file
from cloister.study.published import published_values
from cloister.study.study_diff import diff
from cloister.study.study_file import StudyFile, decode
from cloister.study.study_page import page
from cloister.tensor.plan import encoding
from cloister.tensor.plan.program import Constant as ProgramConstant
from cloister.testing.charters import write_charter
from cloister.wire.optimizers import SGD, CosineDecay
from cloister.wire.strategies import FedAdam
from cloister.wire.tensors import TensorSpec
from cloister.wire.text import is_visible
from tests.charter.test_encoding import TDX
from tests.charter.test_warnings import SNP
from tests.support.charters import SGX, SIMULATED, fingerprint_of, text

EXAMPLE = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


@cloister.plan
def first_row(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of one patient."""
    return F.cross_entropy(model(x[:1]), y[:1])


def model(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


PLAN = loss.capture(model(), example=EXAMPLE)
PARTS = (
    Part("0.bias", TensorSpec("float32", (16,)), False),
    Part("0.weight", TensorSpec("float32", (16, 6)), False),
    Part("2.bias", TensorSpec("float32", (3,)), False),
    Part("2.weight", TensorSpec("float32", (3, 16)), False),
)


class _Named:
    """As much of an identity as a charter takes."""

    def __init__(self, name: str) -> None:
        self.fingerprint = fingerprint_of(name)


def charter(folder: Path, plan: cloister.Plan, start: nn.Module | None = None, **changed: Any) -> Path:
    """A charter of four owners and a researcher for this plan."""
    roles = {**dict.fromkeys(("hill", "north", "harbour", "lake"), "owner"), "rosa": "researcher"}
    numbers: dict[str, Any] = {
        "data": "#mri",
        "optimizer": cloister.SGD(lr=0.1),
        "batch_size": 32,
        "steps": 9,
        "rounds": 20,
    }
    numbers |= {name: changed.pop(name) for name in [*changed] if name in (*numbers, "sampling")}
    given: dict[str, Any] = {
        "members": {name: (role, _Named(name)) for name, role in roles.items()},
        "addresses": ["agg.example:7443"],
        "measurements": [bytes(48)],
        "interactive": False,
        "jobs": [cloister.job("train", plan, **numbers)],
        "first_model": cloister.model_digest(start or model(), plan),
        "floor": 3,
        "largest_share": 0.5,
        "min_batch": 32,
        "min_examples": 100,
        "metrics": {"loss": (0.0, 10.0)},
    }
    write_charter(folder / "charter.toml", **given | changed)
    return folder / "charter.toml"


def written(folder: Path, start: nn.Module | None = None, step: Any = loss, **changed: Any) -> Path:
    start = start or model()
    plan = step.capture(start, example=EXAMPLE)
    file = charter(folder, plan, start, **changed)
    text = "Whether it was a stroke."
    cloister.write_study(folder / "stroke.study", charter=file, plans=[plan], model=start, text=text, overwrite=True)
    return folder / "stroke.study"


def read(path: Path) -> StudyFile:
    return decode(path.read_bytes())


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("honest"))


# The page


@pytest.mark.slow
def test_the_page_says_what_is_computed_what_leaves_and_what_comes_out(honest: Path) -> None:
    found = page(read(honest))
    told = "\n".join(found)
    assert found[1] == f"digest      {read(honest).charter.digest.hex()}"
    for line in (
        "  | Whether it was a stroke.",
        "  data                data sets with the tag #mri",
        "  batch_size          32 rows of every owner in every step",
        "  steps               9 of every owner in every round",
        "  least rows          32 behind one step, 100 behind one owner's update, 300 of 3 owners behind one release",
        "    takes from each row: column 0 (x): float32[6] and column 1 (y): int64[]",
        "    rows:        ",
        "  learned: 163 values in 4 tensors of float32:",
        "  the update          163 numbers, 652 bytes: what the model changed by",
        "  metrics             loss",
        "  the model           the mean of at least 3 owners' updates, applied by the job's strategy",
        "  to whom             all owners, and rosa",
    ):
        assert line in told, line
    assert "addmm" not in told
    assert "danger" not in told
    assert any("addmm" in line for line in page(read(honest), code=True))


@pytest.mark.slow
def test_the_page_says_what_noise_is_worth_and_what_leaves_instead_of_an_update(tmp_path: Path) -> None:
    noise = Noise(unit="record", multiplier=2.0, delta=1e-5)
    given = {
        "optimizer": cloister.SGD(lr=0.5),
        "steps": 1,
        "sampling": Sampling(rate=0.25, rows=90),
        "noise": noise,
        "metrics": {},
    }
    found = page(read(written(tmp_path, **given)))
    told = "\n".join(found)
    for line in (
        "  the sum             163 numbers, 652 bytes: the gradients of the rows that were drawn, each clipped",
        "  beside it           a commitment to it; neither its length nor a number of rows",
        "  metrics             none",
        "  the model           the sum over drawn rows of at least 3 owners, with noise, applied by the job's strategy",
        "privacy     epsilon at delta 1e-05 bounds what all rounds together tell of one record",
        "  smallest owner      may have 100 rows: ",
    ):
        assert line in told, line
    at = found.index("privacy     epsilon at delta 1e-05 bounds what all rounds together tell of one record")
    assert found[at + 1 : at + 4] == ["  job train", found[at + 2], found[at + 3]]
    assert found[at + 3].split()[0] == "epsilon"
    assert max(map(len, found[at : found.index("warnings")])) <= 100
    hidden = {"noise": Noise(unit="owner", multiplier=2.0, delta=1e-5), "metrics": {}}
    told = "\n".join(page(read(written(tmp_path, **hidden))))
    assert "  the update          163 numbers" in told
    assert "  the model           the mean of at least 3 owners' updates, with noise, applied by" in told
    assert "tell of one owner" in told


@pytest.mark.slow
def test_warnings_come_gravest_first(tmp_path: Path) -> None:
    found = page(read(written(tmp_path, step=first_row, floor=4)))
    severities = [line.split()[0] for line in found[found.index("warnings") + 1 : -1] if line[2] != " "]
    assert found[-1].startswith(f"  in all    danger: {severities.count('danger')}, warning: ")
    assert severities[0] == "danger"
    assert severities == sorted(severities, key=["danger", "warning", "note"].index)
    assert "takes single rows out of the batch" in "\n".join(found)


@pytest.mark.slow
def test_a_layer_wider_than_a_step_wants_more_rows(tmp_path: Path) -> None:
    """Of columns that are not centred rows were read whatever the batch was; of centred ones, from fewer than 64."""
    for width, rows, told in ((40, 32, True), (100, 64, True), (200, 128, True), (40, 64, False), (64, 64, False)):
        folder = tmp_path / f"{width}-{rows}"
        folder.mkdir()
        found = " ".join(" ".join(page(read(written(folder, model(width), batch_size=rows, min_examples=300)))).split())
        assert (
            f"a layer of {width} units is wider than a step's {rows} rows: rows of columns that are not" in found
        ) == told
        assert ("put BatchNorm before the layer" in found) == told
        assert ("take 64 at least" in found) == (rows < 64)


@pytest.mark.slow
def test_a_trap_in_the_first_model_is_told(tmp_path: Path) -> None:
    """Bins of one projection (Fowl et al. 2022): a mean's gradient then holds single rows."""
    trapped = model(32)
    with torch.no_grad():
        direction = torch.randn(6)
        trapped[0].weight.copy_(direction.expand(32, 6))  # type: ignore[union-attr, operator]
        trapped[0].bias.copy_(torch.linspace(-2, 2, 32))  # type: ignore[union-attr, operator]
    found = page(read(written(tmp_path, trapped)))
    dangers = [line for line in found if line.startswith("  danger")]
    assert any("first model, 0.weight" in line for line in dangers), found


@pytest.mark.slow
def test_a_drawn_model_needs_no_values_and_is_drawn_again(tmp_path: Path) -> None:
    start = model()
    plan = loss.capture(start, example=EXAMPLE)
    file = charter(tmp_path, plan)
    lines = [line for line in file.read_text().splitlines() if not line.startswith("first_model = ")]
    unfinished = tmp_path / "unfinished.toml"
    unfinished.write_text("\n".join([*lines, cloister.recipe_toml(start, PLAN)]))
    with pytest.raises(CharterError, match="first_model: is missing"):
        cloister.write_study(tmp_path / "u.study", charter=unfinished, plans=[plan], model=start)
    drawn = cloister.draw_first_model(start, unfinished)
    file.write_text(file.read_text() + cloister.recipe_toml(start, PLAN))
    text = file.read_text().replace(cloister.model_digest(start, plan).hex(), cloister.model_digest(drawn, plan).hex())
    file.write_text(text)
    again = cloister.draw_first_model(start, file)  # which does not depend on the digest
    assert cloister.model_digest(again, plan) == cloister.model_digest(drawn, plan)
    cloister.write_study(tmp_path / "s.study", charter=file, plans=[plan], model=drawn)
    found = read(tmp_path / "s.study")
    told = "\n".join(page(found))
    assert "drawn by the charter's recipe" in told
    assert "drawn again here: it is the charter's" in told
    assert "0.weight float32[16, 6], parameter, uniform low -0.40824829" in told
    assert "researcher's choice" not in told
    (tmp_path / "other.toml").write_text(text.replace("rounds = 20", "rounds = 19"))
    with pytest.raises(CharterError, match="not the charter's"):  # drawn under another charter
        cloister.write_study(tmp_path / "t.study", charter=tmp_path / "other.toml", plans=[plan], model=drawn)


@pytest.mark.slow
def test_a_page_needs_neither_torch_nor_anybodys_code(honest: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from cloister.cli.main import main\n"
        f"main(['study', 'show', {str(honest)!r}, '--code'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "least rows" in done.stdout


@pytest.mark.slow
def test_what_has_changed_is_told_and_nothing_else(honest: Path, tmp_path: Path) -> None:
    assert diff(read(honest), read(honest)) == []
    found = diff(read(honest), read(written(tmp_path, steps=10)))
    changed = [line for line in found if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert any(line.startswith("-  steps               9") for line in changed)
    assert any(line.startswith("+  steps               10") for line in changed)
    assert not any("learning" in line or "optimizer" in line for line in changed)


# What an attacker could have a page say

FORGED = "a\x1b[8m\n\nwarnings    none\n\x1b[2J\u202e"


class _Renamed(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.linear = name, nn.Linear(6, 3)
        self.register_parameter(name, nn.Parameter(torch.zeros(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + getattr(self, self.name)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_name_that_steers_a_terminal_is_none(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no name such as 'a\\x1b\[8m"):
        written(tmp_path, _Renamed(FORGED))


@pytest.mark.slow
def test_a_name_looks_like_nothing_else(tmp_path: Path) -> None:
    named = "x float32[3], parameter    2 warnings"
    found = page(read(written(tmp_path, _Renamed(named))), code=True)
    lines = [line for line in found if named in line]
    assert lines
    assert all(f"'{named}'" in line for line in lines)


def test_every_line_of_a_page_is_one_line(honest: Path) -> None:
    """Whatever came past the file's checks."""
    found = read(honest)
    forged = tuple(msgspec.structs.replace(part, name=FORGED + part.name) for part in found.tensors.parts)
    based = Based(FORGED, TensorSpec("float32", (2,)), False, bytes(32), FORGED + "there")
    constant = Constant(FORGED + "constant", TensorSpec("int64", ()), bytes(8))
    owner = replace(found.charter.members[0], name=FORGED)
    limits = replace(found.charter.limits, metrics=(Metric(name=FORGED, low=0.0, high=1.0),))
    job = replace(found.charter.jobs[0], name=FORGED, data=FORGED, unsafe_lr=FORGED)
    agreed = replace(
        found.charter, name=FORGED, members=(owner,), limits=limits, jobs=(job,), addresses=(FORGED,),
        reference=(replace(found.charter.reference[0], name=FORGED),), bases=(Base(name=FORGED, files=(bytes(32),)),),
    )  # fmt: skip
    other = replace(found, charter=agreed, tensors=Tensors(forged, (based,), (constant,)), vector=None, text=FORGED)
    for line in (*page(other, code=True), *diff(found, other)):
        assert is_visible(line), ascii(line)
    assert "warnings    none" not in page(other)


@pytest.mark.slow
def test_a_text_looks_like_nothing_of_the_page(honest: Path) -> None:
    text = "harmless\n\nwarnings    none\n\u3164\nlimits\n  floor               at least 50 members in an aggregate"
    found = page(decode(contents(honest, text=text)))
    begin = found.index("in the words of whoever wrote this file, which the digest and the signatures do not cover") + 1
    told = found[begin : found.index("", begin)]
    assert len(told) == 5
    assert all(line.startswith("  | ") for line in told)
    assert "  | \\u3164" in told


@pytest.mark.slow
def test_a_model_too_large_to_draw_is_not_said_to_be_checked(
    tmp_path: Path, honest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = model()
    text = read(honest).charter_text + cloister.recipe_toml(start, PLAN)
    monkeypatch.setattr(study_file, "VALUES_BYTES", 100)
    told = "\n".join(page(decode(contents(honest, charter=text, vector=None))))
    assert "too large to be drawn here, so not checked" in told
    assert "drawn again here" not in told
    other = text.replace("shape = [16]", "shape = [17]")
    with pytest.raises(CharterError, match=r"other tensors than the charter's recipe draws, which differ in 0\.bias"):
        decode(contents(honest, charter=other, vector=None))


@pytest.mark.slow
def test_the_page_says_whether_values_were_checked(honest: Path) -> None:
    assert "  its values are known here: they are the charter's" in page(read(honest))
    without = page(decode(contents(honest, vector=None)))
    assert "  its values are not known here, so not checked: only its digest says what they are" in without


# All that is signed


def changes(value: Any) -> Iterator[Any]:  # noqa: C901  # a case for each type
    """A value with one thing in it changed, as little as can be: for each thing in it."""
    match value:
        case bool():
            yield not value
        case str():
            yield f"{value}x"
        case bytes():
            yield bytes([value[0] ^ 1]) + value[1:]
        case int():
            yield value + 1
        case float():
            yield math.nextafter(value, math.inf)
        case datetime() | timedelta():
            yield value + timedelta(microseconds=1)
        case frozenset() if value:
            first = min(value)
            yield from (value - {first} | {other} for other in changes(first))
            yield value | {*changes(first)}
        case tuple():
            yield value[1:]
            yield from (
                (*value[:at], other, *value[at + 1 :]) for at, each in enumerate(value) for other in changes(each)
            )
        case dict():
            yield from ({**value, key: other} for key, each in value.items() for other in changes(each))
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from (msgspec.structs.replace(value, **{name: each}) for each in changes(getattr(value, name)))
        case _ if is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                yield from (replace(value, **{field.name: each}) for each in changes(getattr(value, field.name)))


def full(found: StudyFile) -> StudyFile:
    """The study under a charter in which everything is there that can be."""
    reference = tuple(parse_charter(text(software=software)).reference[0] for software in (SGX, SNP, TDX, SIMULATED))
    limits = replace(
        found.charter.limits,
        clip_buffers=2.0,
        home_buffers=True,
        noise=Noise(unit="record", multiplier=1.5, delta=1e-5),
        row_buckets=(200, 400),
        first_model_file=bytes(32),
    )
    job = replace(
        found.charter.jobs[0],
        unsafe_lr="why",
        strategy=FedAdam(0.1),
        optimizer=SGD(0.1, schedule=CosineDecay(3, 0.1)),
        sampling=Sampling(rate=0.5, rows=100),
    )
    agreed = replace(
        found.charter, supersedes=bytes(32), reference=reference, limits=limits, jobs=(job,),
        bases=(Base(name="one", files=(bytes(32), bytes([1] * 32))), Base(name="two", files=(bytes([2] * 32),))),
        recipe=parse_charter(found.charter_text + cloister.recipe_toml(model(), PLAN)).recipe,
    )  # fmt: skip
    return replace(found, charter=agreed)


@pytest.mark.slow
def test_whatever_is_signed_is_on_the_page_and_in_the_difference(honest: Path) -> None:
    """A new field of the charter, of an entry, of a limit, of a job cannot be forgotten."""
    found = full(read(honest))
    (plan,) = found.plans.values()
    drawn = [(each.tensor, each.dtype, each.shape) for each in found.charter.recipe]
    before, count = page(found), 0
    for agreed in changes(found.charter):
        other = replace(found, charter=agreed, plans={job.plan: plan for job in agreed.jobs})
        others = page(other)
        shown = [line for line in {*others} ^ {*before} if not line.startswith("digest")]
        # What a recipe draws for is held against the model's tensors, which are on the page, when the file is read.
        tensors = [(each.tensor, each.dtype, each.shape) for each in agreed.recipe]
        assert shown or len(others) != len(before) or tensors != drawn, agreed
        told = [line for line in diff(found, other) if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        assert [line for line in told if line[1:].startswith("charter.")], agreed
        count += 1
    assert count > 100


@pytest.mark.slow
def test_whatever_else_is_in_the_file_is_in_the_difference(honest: Path, tmp_path: Path) -> None:
    found = read(honest)
    assert diff(found, replace(found, text="Other words."))
    assert diff(found, replace(found, vector=None))
    assert diff(found, replace(found, vector=bytes(652)))
    held = found.tensors
    parts = (msgspec.structs.replace(PARTS[0], buffer=True), *PARTS[1:])
    assert diff(found, replace(found, tensors=msgspec.structs.replace(held, parts=parts)))
    spec = TensorSpec("float32", (2,))
    files = [Based("b", spec, False, bytes([at]) * 32, name) for at, name in ((0, "b"), (1, "b"), (0, "c"))]
    others = [replace(found, tensors=msgspec.structs.replace(held, base=(each,))) for each in files]
    for changed in (found, *others[1:]):
        assert any("tensor b" in line for line in diff(others[0], changed))
    constants = tuple(Constant("n", TensorSpec("int64", ()), bytes([at]) * 8) for at in range(2))
    one, other = (replace(found, tensors=msgspec.structs.replace(held, constants=(each,))) for each in constants)
    assert any("tensor n" in line for line in diff(one, other))
    (digest, plan), *_ = found.plans.items()
    program = encoding.decode(plan)
    twice = [
        replace(found, plans={digest: encoding.encode(msgspec.structs.replace(program, constants=(constant,)))})
        for constant in (ProgramConstant("uint8", (1,), b"\0"), ProgramConstant("uint8", (1,), b"\1"))
    ]
    assert any("constant 0" in line for line in diff(*twice))


@pytest.mark.slow
def test_a_member_under_an_older_keys_id_is_told(honest: Path) -> None:
    found = read(honest)
    owner, *others = found.charter.members
    older = replace(owner, id=fingerprint_of("bob"))
    told = " ".join(" ".join(page(replace(found, charter=replace(found.charter, members=(older, *others))))).split())
    assert f"{owner.name}, {owner.key}, known by the id of an older key: {older.id}" in told
    assert f"warning {owner.name} is known by the id of an older key: {older.id}; it counts as the same" in told
    assert "older key" not in "\n".join(page(found))


# What does not belong together


def contents(honest: Path, **changed: Any) -> bytes:
    found = study_file._decoder.decode(honest.read_bytes())
    tensors = {name: changed.pop(name) for name in ("parts", "base", "constants") if name in changed}
    changed["tensors"] = msgspec.structs.replace(found.tensors, **tensors)
    return study_file._encoder.encode(msgspec.structs.replace(found, **changed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"plans": ()}, "the plans in the study file are not those"),
        ({"plans": (b"another",)}, "the plans in the study file are not those"),
        ({"vector": bytes(652)}, "is not the charter's"),
        ({"vector": bytes(8)}, "not as many as its tensors have"),
        ({"parts": ()}, r"other tensors than a plan of it, which differ in 0\.bias"),
        ({"parts": (*PARTS, Part("harmless", TensorSpec("float32", (2, 2)), False))}, "differ in harmless"),
        ({"parts": (*PARTS[:3], Part("2.weight", TensorSpec("float32", (16, 3)), False))}, r"differ in 2\.weight"),
        ({"parts": (*PARTS[:3], Part("2.weight", TensorSpec("float64", (3, 16)), False))}, r"differ in 2\.weight"),
        ({"parts": (*PARTS[:3], Part("2.weight", TensorSpec("float32", (3, 16)), True))}, r"differ in 2\.weight"),
        ({"parts": (Part("harmless", TensorSpec("float32", (2, 2)), False),), "vector": None}, "differ in"),
        ({"parts": PARTS[::-1]}, "not each named once, in order"),
        ({"parts": (*PARTS[:3], PARTS[2], PARTS[3])}, "not each named once, in order"),
        ({"parts": (Part("a\x1b[8m", TensorSpec("float32", (1,)), False),)}, r"names a tensor 'a\\x1b\[8m'"),
        ({"constants": (Constant("n\u3164", TensorSpec("int64", ()), bytes(8)),)}, r"names a tensor 'n\\u3164'"),
        ({"constants": (Constant("n", TensorSpec("int64", ()), bytes(8)),)}, "differ in n"),
        (
            {"parts": PARTS[1:], "constants": (Constant("0.bias", PARTS[0].spec, bytes(64)),), "vector": None},
            r"its vector holds other tensors than its plan learns: they differ in '0\.bias'",
        ),
        (
            {"parts": PARTS[1:], "base": (Based("0.bias", PARTS[0].spec, False, bytes(32), "0.bias"),), "vector": None},
            r"a file that the charter does not name under \[\[bases\]\]",
        ),
        (
            {"base": (Based("b", PARTS[0].spec, False, bytes(32), "b\u202e"),)},
            r"names a tensor 'b\\u202e'",
        ),
        ({"charter": "= 1"}, "not TOML"),
        ({"format": "cloister study 9"}, "no study file of this version"),
    ],
)
def test_parts_that_do_not_belong_together_are_no_study(honest: Path, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(CharterError, match=why):
        decode(contents(honest, **changed))


class _Tied(nn.Module):
    """Tied weights, statistics, a counter, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x) * self.scale)).relu()  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_model_of_all_kinds_of_tensors_is_its_plans(tmp_path: Path) -> None:
    found = page(read(written(tmp_path, _Tied(), clip_buffers=1.0)))
    assert "    norm.running_var float32[6], buffer" in found
    assert "    norm.num_batches_tracked int64[], stays as it is" in found


class _OnABase(nn.Module):
    """A frozen layer under one that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(6, 6).requires_grad_(requires_grad=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base(x).relu())  # type: ignore[no-any-return]


def on_a_base(folder: Path) -> tuple[nn.Module, cloister.Plan, cloister.Base]:
    torch.manual_seed(0)
    start = _OnABase()
    held = {f"h.{name}": each.detach() for name, each in start.base.named_parameters()}
    save_file(held, folder / "model.safetensors")
    return start, loss.capture(start, example=EXAMPLE), cloister.Base(folder)


@pytest.mark.slow
def test_a_base_is_on_the_page_by_its_files_and_not_in_the_file(tmp_path: Path) -> None:
    start, plan, base = on_a_base(tmp_path)
    (digest,) = base.digests.values()
    digests = {"first_model": cloister.model_digest(start, plan, base=base), "bases": {"gpt2": [digest]}}
    file = charter(tmp_path, plan, start, **digests)
    given: dict[str, Any] = {"charter": file, "plans": [plan], "model": start}
    cloister.write_study(tmp_path / "s.study", base=base, **given)
    found = page(read(tmp_path / "s.study"))
    for line in (
        "  learned: 21 values in 2 tensors of float32:",
        "  from the base gpt2, as it is: 42 values in 2 tensors of the file",
        f"    {digest.hex()}",
        "    base.weight float32[6, 6], which is h.weight there",
    ):
        assert line in found, line
    weight = start.get_parameter("base.weight").detach().numpy().tobytes()
    assert weight not in (tmp_path / "s.study").read_bytes()
    with pytest.raises(CharterError, match="not the charter's"):
        cloister.write_study(tmp_path / "t.study", **given)  # where it is carried in the file
    given["charter"] = charter(tmp_path, plan, start, **digests | {"bases": {"gpt2": [bytes(32)]}})
    with pytest.raises(CharterError, match=r"is in a file that the charter does not name under \[\[bases\]\]"):
        cloister.write_study(tmp_path / "t.study", base=base, **given)


@pytest.mark.slow
def test_buffers_that_stay_at_home_are_said_to(tmp_path: Path) -> None:
    start = _Tied()
    plan = loss.capture(start, example=EXAMPLE)
    first = cloister.model_digest(start, plan, home_buffers=True)
    found = page(read(written(tmp_path, start, home_buffers=True, first_model=first)))
    assert "    norm.running_var float32[6], stays at home" in found
    assert "    scale float32[6], stays as it is" in found


@pytest.mark.slow
def test_plans_that_learn_different_tensors_are_of_two_studies(tmp_path: Path) -> None:
    start = model()
    plan = loss.capture(start, example=EXAMPLE)
    file = charter(tmp_path, plan, start)
    start.get_parameter("0.weight").requires_grad_(requires_grad=False)
    fewer = loss.capture(start, example=EXAMPLE)
    with pytest.raises(ConfigurationError, match="a study file is of one model"):
        cloister.write_study(tmp_path / "s.study", charter=file, plans=[plan, fewer], model=start)
    with pytest.raises(ConfigurationError, match="a study file is of one model"):
        cloister.write_study(tmp_path / "s.study", charter=file, plans=[], model=start)


@pytest.mark.slow
def test_a_plan_that_cannot_be_read_is_no_plan(honest: Path) -> None:
    text = read(honest).charter_text
    nonsense = b"nonsense"
    plan = parse_charter(text).jobs[0].plan
    changed = contents(
        honest, charter=text.replace(plan.hex(), hashlib.sha256(nonsense).hexdigest()), plans=(nonsense,)
    )
    with pytest.raises(CharterError, match="a plan in the study file is none"):
        decode(changed)


@pytest.mark.slow
def test_values_that_are_not_there_are_told(honest: Path) -> None:
    found = " ".join(" ".join(page(decode(contents(honest, vector=None)))).split())
    assert "its values are not in this file, and were not looked at for traps" in found


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CharterError):
        decode(data)


@pytest.mark.slow
@given(at=st.integers(0, 10_000), value=st.integers(1, 255))
def test_any_damage_is_refused_or_shown(honest: Path, at: int, value: int) -> None:
    data = bytearray(honest.read_bytes())
    data[at % len(data)] ^= value
    try:
        found = decode(bytes(data))
    except CharterError:
        return
    assert all(line.isprintable() for line in page(found))


# A first model that is published, and plans that have to be proved


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_published_model_is_looked_into_once_it_is_the_charters(tmp_path: Path, dtype: torch.dtype) -> None:
    start = model().to(dtype)
    save_file(start.state_dict(), tmp_path / "base.safetensors")
    digest = hashlib.sha256((tmp_path / "base.safetensors").read_bytes()).hexdigest()
    plan = loss.capture(start, example=(EXAMPLE[0].to(dtype), EXAMPLE[1]))
    file = charter(tmp_path, plan, start)
    text = file.read_text().replace("first_model = ", f'first_model_file = "{digest}"\nfirst_model = ', 1)
    file.write_text(text)
    cloister.write_study(tmp_path / "s.study", charter=file, plans=[plan], model=start)
    found = decode(contents(tmp_path / "s.study", vector=None))
    values = published_values(found, tmp_path / "base.safetensors")
    assert values == read(tmp_path / "s.study").vector
    assert f"published, in the file with the SHA-256 {digest}" in "\n".join(page(found))
    other = tmp_path / "other.safetensors"
    save_file(model(8).state_dict(), other)
    with pytest.raises(CharterError, match="is not the file that the charter names"):
        published_values(found, other)
    with pytest.raises(CharterError, match="cannot be read"):
        published_values(found, tmp_path / "gone.safetensors")
    named = replace(found.charter.limits, first_model_file=hashlib.sha256(other.read_bytes()).digest())
    wrong = replace(found, charter=replace(found.charter, limits=named))
    with pytest.raises(CharterError, match=r"'0\.bias' in"):
        published_values(wrong, other)


@pytest.mark.slow
def test_a_charter_that_names_no_file_has_none_to_look_into(honest: Path, tmp_path: Path) -> None:
    with pytest.raises(CharterError, match="names no published file"):
        published_values(read(honest), tmp_path / "base.safetensors")


@pytest.mark.slow
def test_a_charter_may_demand_proved_plans(tmp_path: Path) -> None:
    for step, proved in ((loss, True), (first_row, False)):
        found = read(written(tmp_path, step=step))
        demanding = replace(found.charter, limits=replace(found.charter.limits, proven_plans=True))
        (plan,) = found.plans.values()
        check_proven(found.charter, plan)
        if proved:
            check_proven(demanding, plan)
        else:
            with pytest.raises(JobError, match="of the job's plan it is not: line 0: slice takes single rows"):
                check_proven(demanding, plan)
    with pytest.raises(JobError, match="cannot be looked at"):
        check_proven(demanding, b"nonsense")
