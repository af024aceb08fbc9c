"""Guards let through what autograd asks for, whatever the shapes, and refuse the same call with one argument bent."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cloister.errors import HostileIndexError
from cloister.worker import guards
from cloister.worker.guards import series  # test_series.py is theirs


class Guarded(TorchDispatchMode):
    """Checks every operation, as a worker does, and keeps the last call of each."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        schema = func._schema
        name = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
        arguments = dict(zip((a.name for a in schema.arguments), args, strict=False)) | (kwargs or {})
        guards.check(name, arguments)
        if name in guards.GUARDED:
            self.calls[name] = dict(arguments)
        return func(*args, **(kwargs or {}))


def image(n, c, *extents):
    return torch.randn(n, c, *extents, requires_grad=True)


# Each takes samples n, channels c (even), extent e (at least 4), and runs something forward; the sum of its result is
# then differentiated.
def fractional(n, c, e, *, spatial):
    pool = nn.FractionalMaxPool2d if spatial == 2 else nn.FractionalMaxPool3d
    return pool(2, output_size=2)(image(n, c, *[e] * spatial))


def grid_sample(n, c, e, *, spatial, mode="bilinear", padding="zeros"):
    grid = torch.rand(n, *[e - 1] * spatial, spatial) * 3 - 1.5
    return F.grid_sample(
        image(n, c, *[e] * spatial), grid.requires_grad_(), mode=mode, padding_mode=padding, align_corners=False
    )


def embedding_bag(n, c, e, *, mode, weighted=False, last=False, freq=False, padding_idx=None):
    bag = nn.EmbeddingBag(e, c, mode=mode, include_last_offset=last, scale_grad_by_freq=freq, padding_idx=padding_idx)
    indices = torch.randint(0, e, (2 * n,))
    offsets = torch.tensor([0, *sorted(torch.randint(0, 2 * n + 1, (n,)).tolist())] + ([2 * n] if last else []))
    return bag(indices, offsets, torch.rand(2 * n, requires_grad=True) if weighted else None)


def ctc(n, c, e, *, packed=False, tensors=False):
    targets = torch.randint(1, c, (n, 2))
    lengths, steps = [2] * n, [2 * e] * n
    if not packed:  # what pads the targets is never read, so it may be anything
        lengths[0], targets[0, 1] = 1, -(2**40)
    if tensors:
        lengths, steps = torch.tensor(lengths), torch.tensor(steps)
    scores = torch.randn(2 * e, n, c, requires_grad=True).log_softmax(2)
    return F.ctc_loss(scores, targets.flatten() if packed else targets, steps, lengths, zero_infinity=True)


def nll(n, c, e, *, reduction="mean"):
    targets = torch.randint(0, c, (n,))
    targets[0] = -100
    return F.cross_entropy(torch.randn(n, c, requires_grad=True), targets, reduction=reduction)


def margins(n, c, e, *, reduction="mean"):
    scores = torch.randn(n, c, requires_grad=True)
    many = F.multilabel_margin_loss(
        scores, torch.full((n, c), -1).index_fill(1, torch.tensor([0]), 1), reduction=reduction
    )
    return many.sum() + F.multi_margin_loss(scores, torch.randint(0, c, (n,)), reduction=reduction).sum()


def batch_norm(n, c, e, *, track=True, train=True):
    layer = nn.BatchNorm1d(c, track_running_stats=track).train(train)
    return layer(image(n, c, e))


def into(n, c, e):
    with torch.no_grad():
        F.normalize(torch.randn(n, c), out=torch.empty(n, c))
        torch.maximum(torch.randn(n, c), torch.randn(c), out=torch.empty(n, c))
        nn.init.eye_(torch.empty(n, e))
    return torch.zeros(1, requires_grad=True)


def divided(n, c, e):
    whole = torch.randint(-(2**63), 2**63 - 1, (n, e))
    whole.div(3, rounding_mode="trunc").div_(-2, rounding_mode="trunc")
    whole.div(torch.full((e,), -3), rounding_mode="trunc").div_(torch.tensor(-3), rounding_mode="trunc")
    whole.div(torch.full((e,), -1), rounding_mode="floor")
    return torch.div(image(n, c, e), -1, rounding_mode="trunc")


def transforms(n, c, e):
    signal = image(n, c, e, e + 1)
    spectrum = torch.fft.rfft2(signal)
    return torch.fft.irfft2(spectrum, s=(e, e + 1)) + torch.fft.ifft(torch.fft.fftn(signal, dim=(-1, 1))).real


def raw_embedding_bag_backward(n, c, e):
    """Autograd reaches this one through ``_embedding_bag_backward``."""
    weight, indices = torch.randn(e, c), torch.randint(0, e, (2 * n,))
    out, _, size, maximum = torch.ops.aten._embedding_bag(weight, indices, torch.arange(0, 2 * n, 2), False, 1)
    torch.ops.aten._embedding_bag_dense_backward(
        out, indices, torch.arange(n).repeat_interleave(2), size, maximum, e, False, 1, None
    )
    return torch.zeros(1, requires_grad=True)


RECIPES = {
    "pools 2d": lambda n, c, e: sum(
        pool(image(n, c, e, e + 1)).sum()
        for pool in (
            nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1, 2, ceil_mode=True), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3),
        )
    ) + nn.AdaptiveMaxPool2d(2)(image(n, c, e, e + 1)).sum(),
    "pools 3d": lambda n, c, e: sum(
        pool(image(n, c, e, 4, 5)).sum() for pool in (nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(3))
    ) + nn.AdaptiveMaxPool3d(2)(image(n, c, e, 4, 5)).sum(),
    "pools without a batch": lambda n, c, e: nn.MaxPool2d(2)(torch.randn(c, e, e, requires_grad=True)),
    "pools in channels last": lambda n, c, e: nn.MaxPool2d(2)(image(n, c, e, e).to(memory_format=torch.channels_last)),
    "fractional 2d": lambda n, c, e: fractional(n, c, e, spatial=2),
    "fractional 3d": lambda n, c, e: fractional(n, c, e, spatial=3),
    "reflection pads": lambda n, c, e: nn.ReflectionPad1d((1, 2))(image(n, c, e)).sum()
    + nn.ReflectionPad2d((1, 2, 3, 0))(image(n, c, e, e)).sum() + nn.ReflectionPad3d(1)(image(n, c, e, e, e)).sum(),
    "replication pads": lambda n, c, e: nn.ReplicationPad1d((e, -2))(image(n, c, e)).sum()
    + nn.ReplicationPad2d((1, 2, -1, 0))(image(n, c, e, e)).sum() + nn.ReplicationPad3d(2)(image(n, c, e, e, e)).sum(),
    "antialiased": lambda n, c, e: sum(
        F.interpolate(image(n, c, e, e + 2), scale_factor=scale, mode=mode, antialias=True).sum()
        for scale in (0.5, 1.7) for mode in ("bilinear", "bicubic", "lanczos")
    ),
    "resampled": lambda n, c, e: sum(
        F.interpolate(image(n, c, *[e] * spatial), scale_factor=scale, mode=mode).sum()
        for scale in (0.4, 2.3)
        for spatial, modes in ((1, ["linear"]), (2, ["bilinear", "bicubic"]), (3, ["trilinear"]))
        for mode in [*modes, "nearest", "nearest-exact"]
    ) + F.interpolate(image(n, c, e, e), size=(3, 2 * e), mode="bilinear", align_corners=True).sum(),
    "grid 2d": lambda n, c, e: grid_sample(n, c, e, spatial=2),
    "grid 2d bicubic": lambda n, c, e: grid_sample(n, c, e, spatial=2, mode="bicubic", padding="reflection"),
    "grid 3d": lambda n, c, e: grid_sample(n, c, e, spatial=3, mode="nearest", padding="border"),
    "nll": nll,
    "nll of each": lambda n, c, e: nll(n, c, e, reduction="none"),
    "nll without a batch": lambda n, c, e: F.cross_entropy(torch.randn(c, requires_grad=True), torch.tensor(c - 1)),
    "margins": margins,
    "margins of each": lambda n, c, e: margins(n, c, e, reduction="none"),
    "binary cross-entropy": lambda n, c, e: F.binary_cross_entropy(image(n, c, e).sigmoid(), torch.rand(n, c, e)),
    "binary cross-entropy of each": lambda n, c, e: F.binary_cross_entropy(
        image(n, c).sigmoid(), torch.rand(n, c), weight=torch.rand(c), reduction="none"
    ),
    "ctc": ctc,
    "ctc packed": lambda n, c, e: ctc(n, c, e, packed=True),
    "ctc with tensors": lambda n, c, e: ctc(n, c, e, tensors=True),
    "embedding": lambda n, c, e: nn.Embedding(e, c, -1, scale_grad_by_freq=True)(torch.randint(0, e, (n, 3))),
    "bag mean": lambda n, c, e: embedding_bag(n, c, e, mode="mean", padding_idx=1),
    "bag sum": lambda n, c, e: embedding_bag(n, c, e, mode="sum", weighted=True, last=True),
    "bag sum padded": lambda n, c, e: embedding_bag(n, c, e, mode="sum", weighted=True, padding_idx=0),
    "bag max": lambda n, c, e: embedding_bag(n, c, e, mode="max", freq=False),
    "bag mean by frequency": lambda n, c, e: embedding_bag(n, c, e, mode="mean", freq=True),
    "bag dense": raw_embedding_bag_backward,
    "batch norm": batch_norm,
    "batch norm evaluated": lambda n, c, e: batch_norm(n, c, e, train=False),
    "batch norm untracked": lambda n, c, e: batch_norm(n, c, e, track=False),
    "instance norm": lambda n, c, e: nn.InstanceNorm1d(c, affine=True)(image(n, c, e)),
    "layer norm": lambda n, c, e: nn.LayerNorm([c, e])(image(n, c, e)),
    "layer norm plain": lambda n, c, e: nn.LayerNorm(e, elementwise_affine=False)(image(n, c, e)),
    "group norm": lambda n, c, e: nn.GroupNorm(2, c)(image(n, c, e)),
    "weight norm": lambda n, c, e: nn.utils.parametrizations.weight_norm(nn.Linear(e, c))(image(n, c, e)),
    "weight norm last": lambda n, c, e: nn.utils.parametrizations.weight_norm(nn.Linear(e, c), dim=1)(image(n, c, e)),
    "softmax": lambda n, c, e: image(n, c).softmax(0) * image(n, c).log_softmax(1),
    "pdist": lambda n, c, e: F.pdist(torch.randn(e, c, requires_grad=True)),
    "cdist": lambda n, c, e: torch.cdist(image(n, e, c), torch.randn(c, c), p=1.0),
    "transforms": transforms,
    "least squares": lambda n, c, e: torch.linalg.lstsq(image(n, e, c), torch.randn(n, e, 2)).solution,
    "lu": lambda n, c, e: torch.lu_unpack(*torch.linalg.lu_factor(image(n, c, e)))[1],
    "unfold": lambda n, c, e: image(n, c, e).unfold(-1, 3, 2),
    "division": divided,
    "into": into,
    "medians": lambda n, c, e: image(n, c, e).mT.median(1).values.sum()
    + image(n, 1, e).expand(n, c, e).nanmedian(-1).values.sum(),
    "rrelu": lambda n, c, e: F.rrelu(F.rrelu(image(n, c), training=True), training=True, inplace=True),
    "group norm in channels last": lambda n, c, e: nn.GroupNorm(2, c)(
        image(n, c, e, e).to(memory_format=torch.channels_last)
    ),
    "dirichlet": lambda n, c, e: torch.distributions.Dirichlet(image(n, c).exp()).rsample(),
    "negated lazily": lambda n, c, e: torch._neg_view(image(n, c)),
}  # fmt: skip


def differentiate(recipe, n, c, e):
    with Guarded() as mode:
        out = RECIPES[recipe](n, c, e)
        (out.sum() if out.dim() else out).backward()
    return mode.calls


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(n=st.integers(2, 4), half=st.integers(1, 3), e=st.integers(4, 7))
def test_what_autograd_asks_for_passes(recipe, n, half, e):
    differentiate(recipe, n, 2 * half, e)


@pytest.fixture(scope="module")
def calls():
    torch.manual_seed(0)
    kept = {}
    for recipe in RECIPES:
        kept = differentiate(recipe, 3, 4, 5) | kept
    return kept


def test_the_recipes_reach_every_guard(calls):
    assert guards.GUARDED - set(series.GUARDS) - set(calls) <= {
        "aten::_ctc_loss.Tensor", "aten::_ctc_loss_backward.Tensor",  # on the CPU lengths become lists
        "aten::div.Scalar_mode", "aten::div_.Scalar_mode",  # numbers become tensors
    }  # fmt: skip


def far(tensor):
    """One index beyond anything."""
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[0] = 2**40
    return tensor


def negative(tensor):
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[-1] = -2
    return tensor


def fewer(values):
    return values[:-1] if isinstance(values, list) or values.dim() else values.new_empty(0)


def more(tensor):
    return torch.cat([tensor, tensor]) if tensor.dim() else tensor.new_ones(2)


def spread(tensor):
    """The same values, with others in between."""
    return torch.stack([tensor, tensor], -1).select(-1, 0)


def huge(value):
    return [2**62 for _ in value] if isinstance(value, list) else 2**62


POOLS = ["adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d",
         "max_pool2d_with_indices", "max_pool3d_with_indices"]  # fmt: skip
PADS = [f"{kind}_pad{spatial}d" for kind in ("reflection", "replication") for spatial in (1, 2, 3)]
RESAMPLERS = [
    *(f"{kind}{spatial}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for spatial in (1, 2, 3)),
    "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
    *(f"_upsample_{kind}2d_aa" for kind in ("bicubic", "bilinear", "lanczos")),
]  # fmt: skip
UNSTRIDED = {
    "native_group_norm": ["weight", "bias"],
    "native_group_norm_backward": ["mean", "rstd", "weight", "grad_out", "input"],
    "native_layer_norm_backward": ["mean", "rstd"],
    "_weight_norm_interface_backward": ["grad_w", "saved_v", "saved_g", "saved_norms"],
    "_embedding_bag": ["indices", "offsets"],
    "_embedding_bag_backward": ["indices", "offsets", "offset2bag", "bag_size", "maximum_indices"],
    "_embedding_bag_dense_backward": ["indices", "offset2bag", "bag_size", "maximum_indices"],
    "_embedding_bag_per_sample_weights_backward": ["indices", "offsets"],
    "adaptive_max_pool3d_backward": ["indices"],
    "fractional_max_pool2d_backward": ["indices"],
    "fractional_max_pool3d_backward": ["indices"],
    "rrelu_with_noise": ["noise"],
    "rrelu_with_noise_": ["noise"],
}
"""Arguments whose strides the kernels take no notice of."""
HOSTILE = [
    *((f"{pool}_backward", "indices", bend) for pool in POOLS for bend in (far, negative, fewer)),
    *((f"{pool}_backward", "grad_output", fewer) for pool in POOLS),
    *((f"{pool}_backward", "grad_output", fewer) for pool in ("avg_pool2d", "avg_pool3d")),
    *((f"_adaptive_avg_pool{spatial}d_backward", "grad_output", more) for spatial in (2, 3)),
    *((f"fractional_max_pool{spatial}d", "random_samples", bend) for spatial in (2, 3) for bend in (torch.neg, far)),
    *((pad, "padding", bend) for pad in PADS for bend in (huge, fewer, lambda pads: [-100 for _ in pads])),
    *((f"{pad}_backward", "grad_output", fewer) for pad in PADS),
    *((f"{name}{suffix}", "scales" if "1d" in name else "scales_w", lambda scale: 1e-300)
      for name in RESAMPLERS for suffix in ("", "_backward")),
    *((f"grid_sampler_{spatial}d{suffix}", mode, bend) for spatial in (2, 3) for suffix in ("", "_backward")
      for mode in ("interpolation_mode", "padding_mode") for bend in (huge, lambda mode: -1, lambda mode: 3)),
    *((f"grid_sampler_{spatial}d_backward", "grad_output", fewer) for spatial in (2, 3)),
    *(("nll_loss_backward", "target", bend) for bend in (far, negative, torch.Tensor.double)),
    *((f"{loss}_margin_loss_backward", "grad_output", more) for loss in ("multi", "multilabel")),
    ("_embedding_bag", "offsets", lambda offsets: torch.cat([offsets[:-1], offsets[-1:] + 2**40])),
    ("multi_margin_loss", "self", lambda scores: scores[:0]),
    ("multilabel_margin_loss_backward", "is_target", fewer),
    ("multi_margin_loss", "self", lambda scores: scores[:0]),
    *(("grid_sampler_2d_backward", "grid", bend) for bend in (lambda grid: grid * math.nan, lambda grid: grid + 1e30)),
    *((name, "lower", bend) for name in ("rrelu_with_noise", "rrelu_with_noise_")
      for bend in (lambda lower: 2.0, lambda lower: math.nan)),
    ("binary_cross_entropy", "target", fewer),
    ("binary_cross_entropy_backward", "grad_output", fewer),
    *((f"_ctc_loss{suffix}", argument, bend) for suffix in ("", "_backward")
      for argument, bend in (("targets", far), ("input_lengths", huge), ("target_lengths", huge), ("blank", huge))),
    *(("_ctc_loss_backward", argument, fewer) for argument in ("grad", "log_alpha", "neg_log_likelihood")),
    *(("embedding_dense_backward", "indices", bend) for bend in (far, negative, fewer)),
    *((name, "indices", bend) for bend in (far, negative) for name in (
        "_embedding_bag", "_embedding_bag_backward", "_embedding_bag_dense_backward",
        "_embedding_bag_per_sample_weights_backward")),
    *(("_embedding_bag_dense_backward", "offset2bag", bend) for bend in (far, negative, fewer)),
    *((name, "offsets", bend) for bend in (far, negative, more) for name in (
        "_embedding_bag", "_embedding_bag_backward", "_embedding_bag_per_sample_weights_backward")),
    *(("native_batch_norm", argument, more) for argument in ("weight", "bias", "running_mean", "running_var")),
    *(("native_batch_norm_backward", argument, fewer)
      for argument in ("grad_out", "weight", "save_mean", "save_invstd")),
    *(("native_layer_norm_backward", argument, more) for argument in ("grad_out", "mean", "rstd")),
    *(("native_group_norm_backward", argument, more) for argument in ("grad_out", "mean", "rstd", "weight")),
    *((name, argument, spread) for name, arguments in UNSTRIDED.items() for argument in arguments),
    *(("native_group_norm_backward", "group", bend) for bend in (lambda group: 0, lambda group: 3)),
    ("_weight_norm_interface", "g", more),
    ("_weight_norm_interface", "dim", huge),
    *(("_weight_norm_interface_backward", argument, more) for argument in ("grad_w", "saved_g", "saved_norms")),
    *((f"_{log}softmax_backward_data", "output", more) for log in ("", "log_")),
    *(("_pdist_backward", argument, fewer) for argument in ("grad", "pdist")),
    *(("_cdist_backward", argument, fewer) for argument in ("grad", "cdist", "x1")),
    ("_fft_c2r", "last_dim_size", lambda size: size + 2),
    *((f"_fft_{kind}", "dim", bend) for kind in ("c2c", "c2r", "r2c")
      for bend in (huge, lambda dims: [], lambda dims: [-1], lambda dims: [1, 1])),
    *(("lu_unpack", "LU_pivots", bend) for bend in (fewer, negative)),
    ("linalg_lstsq", "b", lambda b: b[..., :0]),
    ("unfold_backward", "grad_in", fewer),
    ("unfold_backward", "step", lambda step: 0),
    *((name, "self", lambda t: t[..., :1].expand(t.shape).mT) for name in ("median.dim", "nanmedian.dim")),
    *(("_dirichlet_grad", argument, fewer) for argument in ("alpha", "total")),
    *(("_neg_view", "self", bend) for bend in (torch.Tensor.bool, lambda t: t.to(torch.uint16))),
    *((name, "out", more) for name in ("div.out", "maximum.out", "eye.m_out")),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument", "bend"), HOSTILE)
def test_one_bent_argument_is_refused(name, argument, bend, calls):
    arguments = dict(calls[f"aten::{name}"])
    arguments[argument] = bend(arguments.get(argument, 0))
    with pytest.raises(HostileIndexError, match=name) as refusal:
        guards.check(f"aten::{name}", arguments)
    assert str(2**40) not in str(refusal.value)
    assert str(2**62) not in str(refusal.value)


@pytest.mark.parametrize("name", ["div.Tensor_mode", "div_.Tensor_mode", "div.Scalar_mode", "div_.Scalar_mode"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_the_least_integer_is_not_divided_by_minus_one(name, dtype):
    least = torch.tensor([1, torch.iinfo(dtype).min], dtype=dtype)
    other = torch.tensor([-1], dtype=dtype) if "Tensor" in name else -1
    with pytest.raises(HostileIndexError):
        guards.check(f"aten::{name}", {"self": least, "other": other, "rounding_mode": "trunc"})
    guards.check(f"aten::{name}", {"self": least, "other": other, "rounding_mode": "floor"})
    guards.check(f"aten::{name}", {"self": least[:1], "other": other, "rounding_mode": "trunc"})


@pytest.mark.parametrize(
    ("whole", "by"), [(5, torch.tensor([-1])), (torch.tensor([7]), -1), (torch.tensor([-(2**63)]), -1.0)]
)
def test_numbers_may_stand_for_tensors(whole, by):
    guards.check("aten::div.Tensor_mode", {"self": whole, "other": by, "rounding_mode": "trunc"})


def test_evaluation_needs_running_statistics(calls):
    with pytest.raises(HostileIndexError, match="running_mean must be a tensor"):
        guards.check(
            "aten::native_batch_norm", calls["aten::native_batch_norm"] | {"training": False, "running_mean": None}
        )


def test_every_guard_refuses_something():
    bent = {f"aten::{name}" for name, _, _ in HOSTILE}
    divisions = {name for name in guards.GUARDED if name.endswith("_mode")}
    assert guards.GUARDED - set(series.GUARDS) - bent - divisions == {
        "aten::_ctc_loss.Tensor",
        "aten::_ctc_loss_backward.Tensor",
    }


def test_lengths_may_be_tensors():
    arguments = {
        "log_probs": torch.zeros(4, 1, 3), "targets": torch.tensor([[1, 2]]), "input_lengths": torch.tensor([4]),
        "target_lengths": torch.tensor([2]),
    }  # fmt: skip
    guards.check("aten::_ctc_loss.Tensor", arguments)
    with pytest.raises(HostileIndexError):
        guards.check("aten::_ctc_loss.Tensor", arguments | {"target_lengths": torch.tensor([3])})
    with pytest.raises(HostileIndexError):
        guards.check("aten::_ctc_loss.Tensor", arguments | {"target_lengths": torch.tensor([2j])})


def test_an_unguarded_operation_passes():
    guards.check("aten::mm", {})


def test_a_missing_tensor_is_refused():
    with pytest.raises(HostileIndexError, match="self must be a tensor"):
        guards.check("aten::nll_loss_backward", {})
