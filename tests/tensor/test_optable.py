"""The committed table is what this torch gives, and its reader tells it truly."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cloister.tensor import optable
from cloister.worker import guards

ROOT = Path(__file__).resolve().parents[2]


def overload(name: str) -> torch._ops.OpOverload:
    base, _, suffix = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, base), suffix or "default")


def test_schemas_are_those_of_this_torch():
    rows = optable.load().values()
    assert {row.name: row.schema for row in rows} == {row.name: str(overload(row.name)._schema) for row in rows}


@pytest.mark.slow
def test_generator_would_write_the_committed_table():
    made = subprocess.run(
        [sys.executable, "tools/make_optable.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.slow
def test_check_shows_the_difference(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "make_optable.py"
    script.write_text((ROOT / "tools" / "make_optable.py").read_text())
    table = tmp_path / "src" / "cloister" / "tensor" / "optable.txt"
    table.parent.mkdir(parents=True)
    lines = Path(optable.__file__).with_name("optable.txt").read_text().splitlines(keepends=True)
    missing = next(line for line in lines if line.startswith("aten::mm("))
    table.write_text("".join(line for line in lines if line != missing))
    made = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert made.returncode == 1
    assert [line for line in made.stdout.splitlines() if line.startswith(("+aten", "-aten"))] == [
        "+" + missing.rstrip()
    ]


def test_digest_is_the_hash_of_the_file():
    data = Path(optable.__file__).with_name("optable.txt").read_bytes()
    assert optable.digest() == hashlib.sha256(data).digest()


def test_reader_needs_no_torch():
    script = "import sys; from cloister.tensor import optable; optable.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_flags_are_read():
    rows = optable.load()
    assert rows["aten::add.Tensor"] == optable.OpRow("aten::add.Tensor", rows["aten::add.Tensor"].schema)
    assert rows["aten::empty_like"].zero_fill
    assert rows["aten::native_dropout"].random
    assert rows["aten::bernoulli_.float"].random
    assert rows["aten::nonzero"].dynamic
    assert rows["aten::equal"].value
    assert rows["aten::arange"].factory
    assert not rows["aten::zeros_like"].factory
    assert rows["aten::native_batch_norm"].mutates == ("running_mean", "running_var")
    assert rows["aten::gelu"].strings == {"approximate": frozenset({"none", "tanh"})}


def test_rows_are_sorted_and_read_only():
    rows = optable.load()
    assert [row.schema for row in rows.values()] == sorted(row.schema for row in rows.values())
    with pytest.raises(TypeError):
        rows["aten::from_file"] = rows["aten::mm"]


def test_every_guard_is_flagged_and_every_flag_guarded():
    assert {row.name for row in optable.load().values() if row.guard} == guards.GUARDED


def test_every_generator_argument_is_flagged_random():
    for row in optable.load().values():
        if any("Generator" in str(argument.type) for argument in overload(row.name)._schema.arguments):
            assert row.random, row.name


@pytest.mark.parametrize(
    "name",
    [
        "set_.source_Storage_storage_offset", "resize_", "resize_as_", "as_strided_", "_reshape_alias", "record_stream",
        "_fused_adam_", "_foreach_add_.Scalar", "_unsafe_index.Tensor", "_unsafe_masked_index", "_index_put_impl_",
        "_to_sparse", "quantize_per_tensor", "_cudnn_rnn", "mkldnn_convolution", "_print", "_assert_async.msg",
        "is_pinned",
        "_scaled_dot_product_flash_attention_for_cpu", "mkldnn_rnn_layer", "_make_dual", "view_copy", "matmul",
        "add.out",
    ],
)  # fmt: skip
def test_what_no_worker_should_run_is_not_admitted(name):
    assert f"aten::{name}" not in optable.load()
