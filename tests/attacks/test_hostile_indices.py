"""Attack: name a backward operation and give it indices that its kernel follows out of its tensors."""

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile

import pytest
import torch

from cloister.errors import HostileIndexError
from cloister.tensor import optable
from cloister.worker import guards

# So many elements past the start of a tensor, nothing is mapped.
FAR = 2**40


def max_pool(spatial, **more):
    return {
        "grad_output": torch.ones(1, 1, *[2] * spatial),
        "self": torch.ones(1, 1, *[4] * spatial),
        **more,
        "indices": torch.full((1, 1, *[2] * spatial), FAR),
    }


def window(spatial):
    return {
        "kernel_size": [2] * spatial, "stride": [2] * spatial, "padding": [0] * spatial, "dilation": [1] * spatial,
        "ceil_mode": False,
    }  # fmt: skip


def bags(**more):
    return {
        "grad": torch.ones(2, 3), "indices": torch.tensor([0, 1, 2, 3]), **more,
        "offset2bag": torch.tensor([0, 0, FAR, FAR]), "bag_size": torch.tensor([2, 2]),
        "maximum_indices": torch.tensor([0, 0]), "num_weights": 4,
        "scale_grad_by_freq": False, "mode": 0,
    }  # fmt: skip


def labels():
    return {
        "log_probs": torch.zeros(4, 1, 3), "targets": torch.tensor([[1, FAR]]), "input_lengths": [4],
        "target_lengths": [2],
    }  # fmt: skip


def places(value):
    return {
        "grad_output": torch.ones(1, 3, 4, 4), "input": torch.ones(1, 3, 4, 4),
        "grid": torch.full((1, 4, 4, 2), value), "interpolation_mode": 0, "padding_mode": 1, "align_corners": True,
        "output_mask": [True, True],
    }  # fmt: skip


GUARDED = {
    "grid_sampler_2d_backward": lambda: places(float("nan")),
    "max_pool2d_with_indices_backward": lambda: max_pool(2, **window(2)),
    "max_pool3d_with_indices_backward": lambda: max_pool(3, **window(3)),
    "adaptive_max_pool2d_backward": lambda: max_pool(2),
    "adaptive_max_pool3d_backward": lambda: max_pool(3),
    "nll_loss_backward": lambda: {
        "grad_output": torch.ones(2), "self": torch.ones(2, 3), "target": torch.tensor([0, FAR]), "weight": None,
        "reduction": 0, "ignore_index": -100, "total_weight": torch.ones([]),
    },
    "_embedding_bag_dense_backward": lambda: bags() | {"per_sample_weights": None},
    "_embedding_bag_backward": lambda: bags(offsets=torch.tensor([0, 2])) | {
        "sparse": False, "per_sample_weights": None,
    },
    "_ctc_loss": labels,
    "_ctc_loss_backward": lambda: {
        "grad": torch.ones(1), **labels(), "neg_log_likelihood": torch.zeros(1), "log_alpha": torch.zeros(1, 4, 5),
        "blank": 0,
    },
    "embedding_dense_backward": lambda: {
        "grad_output": torch.ones(1, 2), "indices": torch.tensor([FAR]), "num_weights": 3, "padding_idx": -1,
        "scale_grad_by_freq": True,
    },
    "_fft_c2c": lambda: {
        "self": torch.ones(2, 3, dtype=torch.complex64), "dim": [FAR], "normalization": 0, "forward": True,
    },
    "div.Tensor_mode": lambda: {
        "self": torch.tensor([-(2**63)]), "other": torch.tensor([-1]), "rounding_mode": "trunc",
    },
    # The sum goes round 64 bits, and is what the size says.
    "repeat_interleave.Tensor": lambda: {"repeats": torch.tensor([2**62] * 4 + [1]), "output_size": 1},
    "native_batch_norm_backward": lambda: {
        "grad_out": torch.ones(2, 2**20, 2), "input": torch.ones(2, 2**20, 2), "weight": None, "running_mean": None,
        "running_var": None, "save_mean": torch.ones(0), "save_invstd": torch.ones(0), "train": True, "eps": 1e-5,
        "output_mask": [True, True, True],
    },
    "native_layer_norm_backward": lambda: {
        "grad_out": torch.ones(2**20, 4), "input": torch.ones(2**20, 4), "normalized_shape": [4], "mean": torch.ones(0),
        "rstd": torch.ones(0), "weight": None, "bias": None, "output_mask": [True, False, False],
    },
}  # fmt: skip


def brink():
    """A one, and after it 32 MiB that nobody may touch: of a file that was cut off there (mmap(2), SIGBUS). After an
    ordinary tensor there may be as much of others'."""
    with tempfile.TemporaryFile() as file:
        file.truncate(2**25)
        number = torch.frombuffer(mmap.mmap(file.fileno(), 2**25), dtype=torch.float32, count=1)
        file.truncate(number.nbytes)
    return number.fill_(1.0)


def between(harmless):
    """Indices that are as they should be, and others in between, where a kernel looks that knows of no strides."""
    return torch.stack([harmless, torch.full_like(harmless, FAR)], -1).select(-1, 0)


IN_BETWEEN = {
    "adaptive_max_pool3d_backward": lambda: max_pool(3) | {
        "indices": between(torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64)),
    },
    "rrelu_with_noise": lambda: {  # no index, and the same: a number is written for each element, one after the other
        "self": torch.ones(2**22), "noise": brink().expand(2**22), "lower": 0.1, "upper": 0.3, "training": True,
    },
    "native_group_norm": lambda: {
        "input": torch.ones(1, 2**22, 1), "weight": brink().expand(2**22), "bias": None, "N": 1, "C": 2**22,
        "HxW": 1, "group": 1, "eps": 1e-5,
    },
}  # fmt: skip

LEFT_OUT = {
    "_fused_adam_": lambda: {
        "self": [torch.ones(2**22)], "grads": [torch.ones(2**22)], "exp_avgs": [brink()],
        "exp_avg_sqs": [brink()], "max_exp_avg_sqs": [], "state_steps": [torch.ones([])], "lr": 0.1, "beta1": 0.9,
        "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False, "maximize": False,
    },
    "segment_reduce": lambda: {
        "data": torch.ones(4), "reduce": "sum", "lengths": torch.tensor([FAR]), "unsafe": True,
    },
    "lcm": lambda: {"self": torch.tensor([-(2**63)]), "other": torch.tensor([5])},
}  # fmt: skip


CASES = [
    *((name, name, make) for name, make in {**GUARDED, **LEFT_OUT}.items()),
    *((f"{name}, in between", name, make) for name, make in IN_BETWEEN.items()),
]


def run(name, arguments):
    base, _, suffix = name.partition(".")
    overload = getattr(getattr(torch.ops.aten, base), suffix or "default")
    positional = [arguments[a.name] for a in overload._schema.arguments if not a.kwarg_only and a.name in arguments]
    named = {a.name: arguments[a.name] for a in overload._schema.arguments if a.kwarg_only and a.name in arguments}
    overload(*positional, **named)


def signals():
    """By which signal each call ends the process that makes it, without a guard; 0 if it comes back."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ended = {}
    for case, name, make in CASES:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                run(name, make())
            finally:
                os._exit(0)
        ended[case] = os.WTERMSIG(os.waitpid(child, 0)[1])
    return ended


@pytest.fixture(scope="module")
def ended():
    process = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case, _, _ in CASES])
def test_without_a_guard_the_process_dies(case, ended):
    assert ended[case] in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT)


@pytest.mark.parametrize("name", GUARDED)
def test_the_guard_refuses_it(name):
    with pytest.raises(HostileIndexError, match=name) as refusal:
        guards.check(f"aten::{name}", GUARDED[name]())
    assert str(FAR) not in str(refusal.value)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e30])
def test_places_beyond_all_images(value):
    with pytest.raises(HostileIndexError, match="grid must be finite"):
        guards.check("aten::grid_sampler_2d_backward", places(value))
    guards.check("aten::grid_sampler_2d_backward", places(1e15))


@pytest.mark.parametrize("name", IN_BETWEEN)
def test_nothing_may_lie_in_between(name):
    with pytest.raises(HostileIndexError, match="contiguous"):
        guards.check(f"aten::{name}", IN_BETWEEN[name]())


@pytest.mark.parametrize("name", [*GUARDED, *IN_BETWEEN])
def test_the_table_asks_for_the_guard(name):
    assert optable.load()[f"aten::{name}"].guard


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_table_leaves_it_out(name):
    assert f"aten::{name}" not in optable.load()


if __name__ == "__main__":
    print(json.dumps(signals()))
