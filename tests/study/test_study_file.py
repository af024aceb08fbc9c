"""A study file: its parts belong together, and its page says what an owner signs, without anybody's code."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
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
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, JobError
from cloister.node.study.plan_check import check_proven
from cloister.study import study_file
from cloister.study.published import published_values
from cloister.study.study_file import StudyFile, decode
from cloister.study.study_page import diff, page
from cloister.testing.charters import write_charter
from tests.support.charters import fingerprint_of

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
    numbers |= {name: changed.pop(name) for name in [*changed] if name in numbers}
    given: dict[str, Any] = {
        "members": {name: (role, _Named(name)) for name, role in roles.items()},
        "addresses": ["agg.example:7443"],
        "measurements": [bytes(48)],
        "interactive": False,
        "jobs": [cloister.job("train", plan, **numbers)],
        "first_model": cloister.model_digest(start or model()),
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
        "  Whether it was a stroke.",
        "  data                data sets with the tag #mri",
        "  batch_size          32 rows of every owner in every step",
        "  steps               9 of every owner in every round",
        "  least rows          32 behind one step, 100 behind one owner's update, 300 of 3 owners behind one release",
        "    takes from each row: column 0: float32[6] and column 1: int64[]",
        "  163 values in 4 tensors of float32:",
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
def test_warnings_come_gravest_first(tmp_path: Path) -> None:
    found = page(read(written(tmp_path, step=first_row, floor=4)))
    severities = [line.split()[0] for line in found[found.index("warnings") + 1 :] if line[2] != " "]
    assert severities[0] == "danger"
    assert severities == sorted(severities, key=["danger", "warning", "note"].index)
    assert "takes single rows out of the batch" in "\n".join(found)


@pytest.mark.slow
def test_a_layer_wider_than_a_step_wants_more_rows(tmp_path: Path) -> None:
    text = "a layer of 40 units is wider than a step's 32 rows"
    assert text in " ".join(" ".join(page(read(written(tmp_path, model(40))))).split())
    (tmp_path / "more").mkdir()
    wider = written(tmp_path / "more", model(40), batch_size=64)
    assert "is wider than a step's" not in " ".join(page(read(wider)))


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
    unfinished.write_text("\n".join([*lines, cloister.recipe_toml(start)]))
    with pytest.raises(CharterError, match="first_model: is missing"):
        cloister.write_study(tmp_path / "u.study", charter=unfinished, plans=[plan], model=start)
    drawn = cloister.draw_first_model(start, unfinished)
    file.write_text(file.read_text() + cloister.recipe_toml(start))
    text = file.read_text().replace(cloister.model_digest(start).hex(), cloister.model_digest(drawn).hex())
    file.write_text(text)
    again = cloister.draw_first_model(start, file)  # which does not depend on the digest
    assert cloister.model_digest(again) == cloister.model_digest(drawn)
    cloister.write_study(tmp_path / "s.study", charter=file, plans=[plan], model=drawn)
    found = read(tmp_path / "s.study")
    told = "\n".join(page(found))
    assert "drawn by the charter's recipe" in told
    assert "0.weight float32[16, 6], parameter, uniform low -0.408248 high 0.408248" in told
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


# What does not belong together


def contents(honest: Path, **changed: Any) -> bytes:
    return study_file._encoder.encode(
        msgspec.structs.replace(study_file._decoder.decode(honest.read_bytes()), **changed)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"plans": ()}, "the plans in the study file are not those"),
        ({"plans": (b"another",)}, "the plans in the study file are not those"),
        ({"vector": bytes(652)}, "is not the charter's"),
        ({"vector": bytes(8)}, "not as many as its tensors have"),
        ({"parts": ()}, "not as many as its tensors have"),
        ({"charter": "= 1"}, "not TOML"),
        ({"format": "cloister study 9"}, "no study file of this version"),
    ],
)
def test_parts_that_do_not_belong_together_are_no_study(honest: Path, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(CharterError, match=why):
        decode(contents(honest, **changed))


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
