"""An operation on pointers gives what it gives on tensors: the same values, type and shape, or an error, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch.nn import functional as F

from cloister import PointerTensor, VirtualWorker

T = torch.Tensor
Act = Callable[..., Any]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
ALL = (*FLOATS, *INTEGERS, torch.bool)

law = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # hundreds of laws over small values: shrinking would take longer than reading
)

shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)
dtypes = st.sampled_from(ALL)
seeds = st.integers(0, 1 << 20)


def values(shape: Iterable[int], dtype: torch.dtype, seed: int) -> T:
    """Small numbers, so that sums are exact and comparisons meet ties; a few special ones among the floats."""
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(shape)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    drawn = torch.randint(0 if dtype is torch.uint8 else -4, 5, shape, generator=generator)
    if dtype not in FLOATS:
        return drawn.to(dtype)
    floats = (drawn + torch.randint(0, 4, shape, generator=generator) / 4).to(dtype)
    special = torch.rand(shape, generator=generator)
    floats = torch.where(special > 0.95, torch.full_like(floats, math.nan), floats)
    return torch.where(special < 0.03, torch.full_like(floats, math.inf), floats)


def outcome(act: Act, tensors: list[T]) -> tuple[list[Any], Exception | None]:
    """What came of it: the returned tensors and numbers and the arguments as they are afterwards, or the exception."""
    torch.manual_seed(0)
    try:
        returned = act(*tensors)
        items = list(returned) if isinstance(returned, (tuple, list)) else [returned]
        return [_home(item) for item in [*items, *tensors]], None
    except Exception as fault:  # noqa: BLE001  - every kind is compared
        return [], fault


def _home(item: Any) -> Any:
    if not isinstance(item, PointerTensor):
        return item
    value = item.get(keep=True)
    assert (value.shape, value.dtype) == (item.shape, item.dtype)
    return value


def assert_same(act: Act, tensors: list[T]) -> None:
    """The law."""
    worker = VirtualWorker(id="bob", encode=True)
    sent = [tensor.send(worker) for tensor in tensors]
    expected, fault = outcome(act, [tensor.clone() for tensor in tensors])
    got, got_fault = outcome(act, sent)
    if fault is not None or got_fault is not None:
        assert_same_fault(fault, got_fault)
        return
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        if isinstance(theirs, T):
            assert ours.dtype is theirs.dtype
            assert ours.shape == theirs.shape
            assert (
                torch.equal(ours.nan_to_num(), theirs.nan_to_num())
                if theirs.is_floating_point()
                else torch.equal(ours, theirs)
            )
            assert torch.equal(ours.isnan(), theirs.isnan())
        else:
            assert ours == theirs or (ours != ours and theirs != theirs)


REFUSALS = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)


def assert_same_fault(fault: Exception | None, got: Exception | None) -> None:
    """Error for error, and never one that is neither PyTorch's nor ours.

    Where shapes and types alone forbid an operation, PyTorch's functions for finding shapes do the refusing, and
    they do not always choose the class that the kernel chooses: so the classes of PyTorch's refusals count as one
    here. That the usual mistakes give the same class is a test of behaviour 20.
    """
    assert fault is not None, f"only the pointer refused: {got!r}"
    assert got is not None, f"only the tensor refused: {fault!r}"
    assert isinstance(got, (type(fault), *REFUSALS)), f"{got!r} where a tensor gives {fault!r}"
    assert not isinstance(got, AssertionError)


UNARY = """abs neg sign square sqrt rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh
tanh asinh
acosh atanh sigmoid logit erf erfc erfinv floor ceil round trunc frac reciprocal isnan isinf isfinite isposinf isneginf
logical_not bitwise_not relu positive signbit sgn nan_to_num deg2rad rad2deg lgamma digamma i0 sinc angle real conj
clone
contiguous detach t_flip flatten ravel ones_like zeros_like sum_all mean_all prod_all amax_all amin_all argmax_all
any_all all_all
nansum_all numel_free tril triu unique_sorted count_nonzero""".split()

NAMED: dict[str, Act] = {
    "t_flip": lambda x: x.flip(tuple(range(x.dim()))),
    "sum_all": lambda x: x.sum(),
    "mean_all": lambda x: x.mean(),
    "prod_all": lambda x: x.prod(),
    "amax_all": lambda x: x.amax(),
    "amin_all": lambda x: x.amin(),
    "argmax_all": lambda x: x.argmax(),
    "any_all": lambda x: x.any(),
    "all_all": lambda x: x.all(),
    "nansum_all": lambda x: x.nansum(),
    "numel_free": lambda x: (x.numel(), x.dim(), list(x.shape)),
    "unique_sorted": lambda x: torch.unique(x),
    "relu": lambda x: torch.relu(x),
}

IN_PLACE = """abs_ neg_ sqrt_ exp_ log_ sin_ tanh_ sigmoid_ floor_ round_ zero_ relu_ square_ reciprocal_
logical_not_ trunc_
erf_ nan_to_num_ sign_ cos_""".split()

ACTIVATIONS: dict[str, Act] = {
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "logsigmoid": F.logsigmoid,
    "threshold": lambda x: F.threshold(x, 0.5, -1.0),
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x.double(), -1),
    "softmin": lambda x: F.softmin(x, 0),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "glu": lambda x: F.glu(x, -1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*UNARY, *IN_PLACE, *ACTIVATIONS])
@given(shape=shapes, dtype=dtypes, seed=seeds)
@law
def test_one_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    act = ACTIVATIONS.get(name) or NAMED.get(name) or (lambda x: getattr(x, name)())
    assert_same(act, [values(shape, dtype, seed)])


BINARY: dict[str, Act] = {
    name: getattr(torch, name)
    for name in """add sub mul div true_divide floor_divide remainder fmod pow maximum minimum fmax fmin eq ne lt le
    gt ge
    logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor atan2 hypot copysign nextafter gcd heaviside
    logaddexp logaddexp2 xlogy isclose dist bitwise_left_shift bitwise_right_shift float_power rsub ldexp allclose equal
    """.split()
} | {
    "div trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "div floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "add alpha": lambda x, y: torch.add(x, y, alpha=2),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "where scalar": lambda x, y: torch.where(x > y, x, 2),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, 1),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "clamp": lambda x, y: torch.clamp(x, max=y),
    "add_": lambda x, y: x.add_(y),
    "sub_": lambda x, y: x.sub_(y),
    "mul_": lambda x, y: x.mul_(y),
    "div_": lambda x, y: x.div_(y),
    "copy_": lambda x, y: x.copy_(y),
    "pow_": lambda x, y: x.pow_(y),
    "masked_fill_": lambda x, y: x.masked_fill_(y > 0, 1),
    "expand_as": lambda x, y: x.expand_as(y),
    "view_as": lambda x, y: x.view_as(y),
    "broadcast": lambda x, y: torch.broadcast_tensors(x, y),
    "matmul": torch.matmul,
    "outer": lambda x, y: torch.outer(x.flatten(), y.flatten()),
    "inner": torch.inner,
    "kron": torch.kron,
    "tensordot": lambda x, y: torch.tensordot(x, y, 1),
    "cat": lambda x, y: torch.cat([x, y]),
    "stack": lambda x, y: torch.stack([x, y]),
    "hstack": lambda x, y: torch.hstack([x, y]),
    "cross": lambda x, y: torch.linalg.cross(x, y),
    "isin": torch.isin,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "cosine": lambda x, y: F.cosine_similarity(x, y, dim=-1),
    "bce logits": F.binary_cross_entropy_with_logits,
    "kl": lambda x, y: F.kl_div(x, y, reduction="sum"),
    "poisson": F.poisson_nll_loss,
    "cdist": torch.cdist,
    "searchsorted": lambda x, y: torch.searchsorted(x.flatten().sort().values, y.contiguous()),
    "bucketize": lambda x, y: torch.bucketize(x, y.flatten().sort().values),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BINARY)
@given(data=st.data(), shape=shapes, dtype=dtypes, seed=seeds)
@law
def test_two_tensors(name: str, data: st.DataObject, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    """The second one mostly broadcasts with the first; its element type is any."""
    other = data.draw(st.one_of(st.just(shape), shapes, st.just(shape[1:]), st.just(tuple(min(s, 1) for s in shape))))
    second = data.draw(st.one_of(st.just(dtype), dtypes))
    assert_same(BINARY[name], [values(shape, dtype, seed), values(other, second, seed + 1)])


SCALARS: dict[str, Act] = {
    "add": lambda x, s: x + s,
    "radd": lambda x, s: s + x,
    "sub": lambda x, s: s - x,
    "mul": lambda x, s: x * s,
    "div": lambda x, s: x / s,
    "rdiv": lambda x, s: s / x,
    "floordiv": lambda x, s: x // s,
    "mod": lambda x, s: x % s,
    "pow": lambda x, s: x**s,
    "rpow": lambda x, s: s**x,
    "gt": lambda x, s: x > s,
    "eq": lambda x, s: x == s,
    "and": lambda x, s: x & s,
    "clamp": lambda x, s: x.clamp(s),
    "fill_": lambda x, s: x.fill_(s),
    "add_": lambda x, s: x.add_(s),
    "full_like": torch.full_like,
    "index": lambda x, s: x[int(s)],
    "setitem": lambda x, s: x.__setitem__(0, s),
    "setitem mask": lambda x, s: x.__setitem__(x > 0, s),
    "index_fill": lambda x, s: (
        x.index_fill(0, torch.zeros(1, dtype=torch.int64), s)
        if type(x) is T
        else x.index_fill(0, x.new_zeros(1, dtype=torch.int64), s)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALARS)
@given(
    shape=shapes, dtype=dtypes, seed=seeds, scalar=st.sampled_from([0, 1, -2, 3, 1.0, 0.5, -1.5, True, False, math.inf])
)
@settings(law, max_examples=6)
def test_a_tensor_and_a_number(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int, scalar: float) -> None:
    """1, 1.0 and True are three things: each promotes in its own way."""
    if name == "index" and scalar == math.inf:
        return
    if name == "pow" and dtype is torch.bool and isinstance(scalar, bool):
        return  # PyTorch's shape functions take the result for an int64
    assert_same(lambda x: SCALARS[name](x, scalar), [values(shape, dtype, seed)])


ALONG: dict[str, Act] = {
    name: (lambda x, d, name=name: getattr(x, name)(d))
    for name in """sum mean prod amax amin argmax argmin any all cumsum cumprod logsumexp logcumsumexp nansum median
    mode max
    min cummax cummin std var sort argsort unbind diff softmax flip squeeze unsqueeze count_nonzero nanmedian
    nanmean""".split()
} | {
    "sum keepdim": lambda x, d: x.sum(d, keepdim=True),
    "sum dtype": lambda x, d: x.sum(d, dtype=torch.float64),
    "norm": lambda x, d: torch.linalg.vector_norm(x, dim=d),
    "norm 1": lambda x, d: x.norm(1, dim=d),
    "topk": lambda x, d: x.topk(1, dim=d),
    "kthvalue": lambda x, d: x.kthvalue(1, dim=d),
    "chunk": lambda x, d: x.chunk(2, dim=d),
    "split": lambda x, d: x.split(2, dim=d),
    "tensor_split": lambda x, d: x.tensor_split(2, dim=d),
    "narrow": lambda x, d: x.narrow(d, 0, 1),
    "select": lambda x, d: x.select(d, 0),
    "transpose": lambda x, d: x.transpose(d, 0),
    "movedim": lambda x, d: x.movedim(d, 0),
    "roll": lambda x, d: x.roll(1, d) if -x.dim() <= d < x.dim() else x,
    "repeat_interleave": lambda x, d: x.repeat_interleave(2, dim=d),
    "unfold": lambda x, d: x.unfold(d, 2, 1),
    "flatten": lambda x, d: x.flatten(0, d),
    "unflatten": lambda x, d: x.unflatten(d, (1, -1)),
    "var_mean": lambda x, d: torch.var_mean(x, d),
    "aminmax": lambda x, d: torch.aminmax(x, dim=d),
    "index_select": lambda x, d: x.index_select(d, x.new_zeros(2, dtype=torch.int64)),
    "gather": lambda x, d: x.gather(d, x.new_zeros(x.shape, dtype=torch.int64)),
    "scatter": lambda x, d: x.scatter(d, x.new_zeros(x.shape, dtype=torch.int64), 1),
    "scatter_add": lambda x, d: x.scatter_add(d, x.new_zeros(x.shape, dtype=torch.int64), x),
    "scatter_reduce": lambda x, d: x.scatter_reduce(d, x.new_zeros(x.shape, dtype=torch.int64), x, "amax"),
    "index_add": lambda x, d: x.index_add(d, x.new_zeros(x.shape[d], dtype=torch.int64), x),
    "index_copy": lambda x, d: x.index_copy(d, torch.arange(x.shape[d], device=x.device), x.flip(d)),
    "take_along_dim": lambda x, d: x.take_along_dim(x.new_zeros(x.shape, dtype=torch.int64), d),
    "cumsum_": lambda x, d: x.cumsum_(d),
    "unsqueeze_": lambda x, d: x.unsqueeze_(d),
    "squeeze_": lambda x, d: x.squeeze_(d),
    "transpose_": lambda x, d: x.transpose_(d, 0),
    "renorm": lambda x, d: x.renorm(2, d, 1.0),
    "trapezoid": lambda x, d: torch.trapezoid(x, dim=d),
    "gradient": lambda x, d: torch.gradient(x, dim=d),
    "quantile": lambda x, d: torch.quantile(x, 0.25, dim=d),
    "logcumsumexp": lambda x, d: x.logcumsumexp(d),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONG)
@given(data=st.data(), shape=shapes, dtype=dtypes, seed=seeds)
@law
def test_along_a_dimension(
    name: str, data: st.DataObject, shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    """A dimension of its own mostly, and now and then one that it has not."""
    dimension = data.draw(st.integers(-len(shape) - 1, len(shape)) if shape else st.integers(-2, 1))
    assert_same(lambda x: ALONG[name](x, dimension), [values(shape, dtype, seed)])


SHAPING: dict[str, Act] = {
    "view": lambda x: x.view(-1),
    "reshape": lambda x: x.reshape(2, -1),
    "t": lambda x: x.t(),
    "T": lambda x: x.permute(*range(x.dim() - 1, -1, -1)),
    "squeeze": lambda x: x.squeeze(),
    "slice": lambda x: x[1:, ..., ::2],
    "ellipsis": lambda x: x[..., 0],
    "new axis": lambda x: x[None, ..., None],
    "list index": lambda x: x[[0, 1, 0]],
    "mask": lambda x: x[x > 0],
    "local index": lambda x: x[torch.tensor([1, 0])],
    "nonzero": lambda x: x.nonzero(),
    "argwhere": torch.argwhere,
    "masked_select": lambda x: x.masked_select(x > 0),
    "take": lambda x: x.take(x.new_zeros(3, dtype=torch.int64)),
    "put": lambda x: x.put(x.new_zeros(1, dtype=torch.int64), x.new_ones(1)),
    "repeat": lambda x: x.repeat(*([2] * max(x.dim(), 1))),
    "expand": lambda x: x.expand(2, *x.shape),
    "as_strided": lambda x: x.as_strided((2,), (1,)),
    "diag": lambda x: x.diag(),
    "diagonal": lambda x: x.diagonal(),
    "diag_embed": lambda x: torch.diag_embed(x),
    "trace": lambda x: x.trace(),
    "rot90": lambda x: x.rot90(),
    "pad": lambda x: F.pad(x, (1, 0), value=2.0),
    "pad reflect": lambda x: F.pad(x, (1, 0), mode="reflect"),
    "one_hot": lambda x: F.one_hot(x.long() % 6, 6),
    "bincount": lambda x: torch.bincount(x.flatten().long().abs()),
    "histc": lambda x: torch.histc(x, 4, -4, 4),
    "cov": lambda x: torch.cov(x),
    "cartesian": lambda x: torch.cartesian_prod(x, x),
    "combinations": lambda x: torch.combinations(x),
    "meshgrid": lambda x: torch.meshgrid(x, x, indexing="ij"),
    "block_diag": lambda x: torch.block_diag(x, x),
    "vander": lambda x: torch.linalg.vander(x),
    "to double": lambda x: x.to(torch.float64),
    "to bool": lambda x: x.bool(),
    "to int8": lambda x: x.nan_to_num(0, 0, 0).to(torch.int8),
    "type_as": lambda x: x.type_as(x.double()),
    "item": lambda x: x.item(),
    "tolist": lambda x: len(x.flatten().tolist()),
    "iterate": lambda x: list(x),
    "bool": bool,
    "len": len,
    "conv1d": lambda x: F.conv1d(x, x[:1, :, :1]),
    "conv2d": lambda x: F.conv2d(x, x[:1, :, :1, :1]),
    "max_pool1d": lambda x: F.max_pool1d(x, 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "group_norm": lambda x: F.group_norm(x, 1),
    "instance_norm": lambda x: F.instance_norm(x),
    "unfold": lambda x: F.unfold(x, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 1),
    "embedding": lambda x: F.embedding(x.long().abs() % 2, torch.ones(2, 2, device=x.device)),
    "cross_entropy": lambda x: F.cross_entropy(x, x.argmax(1)),
    "nll": lambda x: F.nll_loss(x, x.argmax(1)),
    "multilabel": lambda x: F.multilabel_soft_margin_loss(x, (x > 0).to(x.dtype)),
    "dropout off": lambda x: F.dropout(x, 0.5, training=False),
    "dropout all": lambda x: F.dropout(x, 1.0),
    "inverse": lambda x: torch.linalg.inv(x),
    "determinant": lambda x: torch.linalg.det(x),
    "solve": lambda x: torch.linalg.solve(x, x),
    "qr": lambda x: torch.linalg.qr(x),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)),
    "matrix_power": lambda x: torch.linalg.matrix_power(x, 2),
    "einsum": lambda x: torch.einsum("...i,...j->...ij", x, x),
    "fft": lambda x: torch.fft.fft(x).real,
    "rfft": lambda x: torch.fft.irfft(torch.fft.rfft(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPING)
@given(shape=shapes, dtype=dtypes, seed=seeds)
@settings(law, max_examples=6)
def test_shaping(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    assert_same(SHAPING[name], [values(shape, dtype, seed)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["conv2d", "max_pool2d", "avg_pool2d", "adaptive", "batch_norm", "group_norm", "unfold"]
)
@given(shape=st.tuples(*[st.integers(1, 4)] * 4), dtype=st.sampled_from([torch.float32, torch.float64]), seed=seeds)
@law
def test_images(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    assert_same(SHAPING[name], [values(shape, dtype, seed).nan_to_num(0, 0, 0)])


def test_the_sample_is_broad() -> None:
    assert len({*UNARY, *IN_PLACE}) + len(ACTIVATIONS) + len(BINARY) + len(ALONG) + len(SHAPING) + len(SCALARS) >= 150
