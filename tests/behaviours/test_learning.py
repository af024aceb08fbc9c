"""Behaviours 14 to 17, 21, 22 and 24: autograd, modules and optimizers work as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cloister import PointerTensor
from cloister.errors import PointerAssignmentError
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import objs
from tests.rounding import assert_equal_within, decomposed, plain_kernels, widened

# A warning of PyTorch's at setting the flag below.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")


@pytest.fixture(autouse=True)
def _plain_kernels() -> Iterator[None]:
    """What is compared runs the same kernels on both sides: a pointer's composite operations become the plain ones."""
    with plain_kernels():
        yield


def test_14_backward_on_a_pointer(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0], requires_grad=True).send(b)
    (p**3).sum().backward()
    assert isinstance(p.grad, PointerTensor)
    assert p.grad.location is b
    held = objs(b)
    assert p.grad.get(keep=True).tolist() == [3.0, 12.0]
    assert objs(b) == held
    assert p.get().tolist() == [1.0, 2.0]


def test_14_the_gradient_outlives_what_it_came_from(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0], requires_grad=True).send(b)
    loss = (p * p).sum()
    loss.backward()
    del loss
    assert p.grad.get().tolist() == [2.0, 4.0]
    p.grad = None
    (p * 5).sum().backward()
    assert p.grad.get().tolist() == [5.0, 5.0]


def test_14_gradients_accumulate(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0], requires_grad=True).send(b)
    for _ in range(3):
        (p * 2).sum().backward()
    assert p.grad.get().tolist() == [6.0, 6.0]


GRADIENTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clamp": lambda p: p.clamp(-0.5, 0.5),
    "where": lambda p: torch.where(p > 0, p, -2 * p),
    "normalize": lambda p: F.normalize(p),
    "prod": lambda p: p.prod(),
    "max": lambda p: p.max(1).values,
    "cumprod": lambda p: p.cumprod(0),
    "index": lambda p: p[[0, 2, 2]],
    "mask": lambda p: p[p > 0],
    "std": lambda p: p.std(0),
    "logsumexp": lambda p: p.logsumexp(1),
    "trace": lambda p: p.trace(),
    "determinant": torch.det,
    "hinge": lambda p: F.hinge_embedding_loss(p, torch.where(p > 0, 1.0, -1.0)),
    "triplet": lambda p: F.triplet_margin_loss(p, p * 2, p.flip(0)),
    "smoothed cross-entropy": lambda p: F.cross_entropy(p, p.argmax(1), label_smoothing=0.1),
    "convolution": lambda p: F.conv2d(p[None, None], p[:2, :2][None, None]),
    "max pooling": lambda p: F.max_pool2d(p[None], 2),
    "interpolation": lambda p: F.interpolate(p[None, None], scale_factor=2, mode="bilinear"),
    "pair distances": lambda p: torch.cdist(p, p.flip(1)),
    "spectrum": lambda p: torch.fft.fft(p).abs(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADIENTS)
def test_14_gradients_are_the_same(b: Worker, name: str) -> None:
    x = torch.randn(4, 4, requires_grad=True)
    p = x.send(b)
    for tensor in (x, p):
        result = GRADIENTS[name](tensor)
        (result * result).sum().backward()
    # For a few, PyTorch uses another formula where a tensor is of a subclass.
    torch.testing.assert_close(p.grad.get(), x.grad, rtol=1e-5, atol=1e-7)


def tied() -> nn.Module:
    """A module with everything that is hard to move: buffers, a tied weight, a frozen parameter."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.PReLU())
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    model(torch.randn(8, 4)).sum().backward()
    return model


def test_15_modules_are_sent_and_got_in_place(b: Worker) -> None:
    model = tied()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight, grad = model[0].weight, model[0].weight.grad.clone()
    assert model.send(b) is model
    assert model[0].weight is weight
    assert model[2].weight is weight
    assert all(isinstance(t, PointerTensor) for t in (*model.parameters(), *model.buffers()))
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    assert isinstance(weight.grad, PointerTensor)
    assert not model[0].bias.requires_grad
    assert model.get() is model
    assert model[0].weight is weight is model[2].weight
    assert type(weight) is nn.Parameter
    assert torch.equal(weight.grad, grad)
    assert not model[0].bias.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    del grad
    assert objs(b) == 0


def test_15_shared_weights_are_sent_once(b: Worker) -> None:
    model = tied().send(b)
    tensors = [*model.parameters(), *model.buffers()]
    gradients = [p for p in model.parameters() if p.grad is not None]
    assert objs(b) == len(tensors) + len(gradients)


def test_15_modules_move(b: Worker, a: Worker) -> None:
    model = tied()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.send(b).move(a)
    assert objs(b) == 0
    assert all(t.location is a for t in (*model.parameters(), *model.buffers()))
    assert all(p.grad.location is a for p in model.parameters() if p.grad is not None)
    assert model(a.ones(8, 4)).location is a
    model.get()
    assert torch.equal(model[0].weight, before["0.weight"])


def test_15_copy_is_another_module_in_the_same_place(b: Worker) -> None:
    model = tied().send(b)
    twin = model.copy()
    assert twin is not model
    assert twin[2].weight is twin[0].weight
    assert twin[0].weight is not model[0].weight
    twin.get()
    assert isinstance(model[0].weight, PointerTensor)
    model.get()
    assert torch.equal(twin[0].weight, model[0].weight)


def test_15_a_parameter_that_a_graph_has_saved_stays_where_it_is(b: Worker) -> None:
    model = nn.Linear(2, 1)
    saved = (model.weight**2).sum()
    with pytest.raises(PointerAssignmentError, match="graph"):
        model.send(b)
    del saved
    model.send(b)


def test_15_backward_through_what_was_sent_meanwhile_is_refused(b: Worker) -> None:
    model = nn.Linear(2, 1)
    loss = model(torch.ones(1, 2)).sum()
    model.send(b)
    with pytest.raises(RuntimeError, match="swap"):
        loss.backward()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, *, steps: int = 3
) -> None:
    """A few steps of least squares."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD maximize": lambda p: torch.optim.SGD(p, lr=0.001, maximize=True, dampening=0.1, momentum=0.5),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, line_search_fn="strong_wolfe"),
    "Muon": lambda p: torch.optim.Muon([w for w in p if w.ndim == 2], lr=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_16_optimizers_step_at_the_worker(b: Worker, name: str) -> None:
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    here = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    there = copy.deepcopy(here).send(b)
    ours, theirs = OPTIMIZERS[name](list(here.parameters())), OPTIMIZERS[name](list(there.parameters()))
    train(here, ours, x, y)
    train(there, theirs, x.send(b), y.send(b))
    for parameter, state in theirs.state.items():
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.dim():
                assert isinstance(value, PointerTensor)
                assert value.location is parameter.location
    there.get()
    for expected, got in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(got, expected)


def test_16_all_of_torch_optim_is_tried() -> None:
    every = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    assert every - {"SparseAdam"} <= {name.split()[0] for name in OPTIMIZERS}


def test_16_sparse_gradients_are_refused_clearly(b: Worker) -> None:
    weights = nn.Embedding(4, 2, sparse=True).send(b)
    with pytest.raises(Exception, match=r"sparse|strided"):
        weights(torch.tensor([1]).send(b)).sum().backward()


@pytest.mark.slow
def test_16_an_optimizer_follows_a_model_that_changes_worker(b: Worker, a: Worker) -> None:
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    here = nn.Linear(3, 1)
    there = copy.deepcopy(here)
    ours, theirs = (torch.optim.Adam(model.parameters(), lr=0.1) for model in (here, there))
    train(here, ours, x, y, steps=4)
    train(there, theirs, x, y, steps=1)
    train(there.send(b), theirs, x.send(b), y.send(b), steps=1)
    train(there.move(a), theirs, x.send(a), y.send(a), steps=1)
    train(there.get(), theirs, x, y, steps=1)
    assert torch.equal(there.weight, here.weight)
    assert torch.equal(there.bias, here.bias)


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)


def floats() -> torch.Tensor:
    return torch.randn(3, 5, 8)


def tokens() -> torch.Tensor:
    return torch.randint(0, 10, (3, 5))


class Attention(nn.Module):
    """Self-attention, causal if asked to be."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(5) if self.causal else None
        return self.attention(x, x, x, attn_mask=mask, is_causal=self.causal, need_weights=not self.causal)[0]


class WithState(nn.Module):
    """A recurrent layer that is given its initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, torch.ones(1, 3, 4, dtype=x.dtype))[0]


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "LSTM": (lambda: nn.LSTM(8, 4, 2, batch_first=True), floats),
    "LSTM bidirectional": (lambda: nn.LSTM(8, 4, bidirectional=True, batch_first=True), floats),
    "LSTM projected": (lambda: nn.LSTM(8, 4, proj_size=2, batch_first=True), floats),
    "GRU": (lambda: nn.GRU(8, 4, batch_first=True), floats),
    "GRU with a state": (WithState, floats),
    "RNN": (lambda: nn.RNN(8, 4, batch_first=True), floats),
    "Embedding": (lambda: nn.Embedding(10, 4, padding_idx=1), tokens),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(10, 4, mode="mean"), tokens),
    "EmbeddingBag max": (lambda: nn.EmbeddingBag(10, 4, mode="max"), tokens),
    "BatchNorm": (lambda: nn.BatchNorm1d(5), floats),
    "GroupNorm": (lambda: nn.GroupNorm(5, 5), floats),
    "LayerNorm": (lambda: nn.LayerNorm(8), floats),
    "RMSNorm": (lambda: nn.RMSNorm(8), floats),
    "InstanceNorm": (lambda: nn.InstanceNorm1d(5, track_running_stats=True), floats),
    "MultiheadAttention": (lambda: Attention(causal=False), floats),
    "MultiheadAttention causal": (lambda: Attention(causal=True), floats),
    "TransformerEncoderLayer": (encoder, floats),
    "TransformerDecoderLayer": (lambda: Decoder(), floats),
    "Conv1d": (lambda: nn.Conv1d(5, 3, 3, padding=1), floats),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(5, 3, 3), floats),
    "Bilinear": (lambda: Twice(nn.Bilinear(8, 8, 3)), floats),
    "CosineSimilarity": (lambda: Twice(nn.CosineSimilarity(dim=2)), floats),
    "Unfold": (lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Unfold(2)), floats),
    "Softmax and pooling": (lambda: nn.Sequential(nn.Softmax(-1), nn.AdaptiveAvgPool1d(3), nn.MaxPool1d(2)), floats),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), floats),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)), floats),
}


RECURRENT = frozenset({"LSTM", "LSTM bidirectional", "LSTM projected", "GRU", "GRU with a state", "RNN"})


class Twice(nn.Module):
    """A layer of two inputs, given the same one twice, the other way round."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x.flip(1))


class Decoder(nn.Module):
    """A decoder layer over a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5), tgt_is_causal=True)


def results_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a layer returns, after the backward pass of its square."""
    returned = model(x)
    output = returned[0] if isinstance(returned, tuple) else returned
    if output.requires_grad:
        (output**2).sum().backward()
    return output.detach()


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("name", LAYERS)
def test_17_layers_compute_the_same_numbers(b: Worker, name: str, training: bool) -> None:
    make, batch = LAYERS[name]
    here, x = widened(make().train(training), batch())
    there, p = copy.deepcopy(here).send(b), x.send(b)
    expected, got = results_of(here, x), results_of(there, p)
    assert_equal_within(got.get(), expected)
    del got
    there.get()
    for (path, wanted), parameter in zip(here.named_parameters(), there.parameters(), strict=True):
        assert (parameter.grad is None) == (wanted.grad is None), path
        if parameter.grad is not None:
            assert_equal_within(parameter.grad, wanted.grad, name=path)
    for (path, wanted), buffer in zip(here.named_buffers(), there.buffers(), strict=True):
        assert_equal_within(buffer, wanted, name=path)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in RECURRENT])
def test_17_what_decomposes_alike_is_equal_to_the_bit(kind: str, b: Worker, name: str, training: bool) -> None:
    if kind == "tls":
        pytest.skip("which kernels another process uses is not for this one to choose")
    make, batch = LAYERS[name]
    here, x = make().train(training), batch()
    there, p = copy.deepcopy(here).send(b), x.send(b)
    with decomposed():
        expected = results_of(here, x)
        got = results_of(there, p).get()
    assert torch.equal(got, expected)
    there.get()
    for (path, wanted), parameter in zip(here.named_parameters(), there.parameters(), strict=True):
        assert parameter.grad is None or torch.equal(parameter.grad, wanted.grad), path
    for (path, wanted), buffer in zip(here.named_buffers(), there.buffers(), strict=True):
        assert torch.equal(buffer, wanted), path


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_17_a_recurrent_layer_equals_its_steps_one_by_one_to_the_bit(kind: str, b: Worker, layer: type[nn.RNN]) -> None:
    # On the CPU one product serves all the steps; a step of its own takes the products that a pointer takes.
    if kind == "tls":
        pytest.skip("which kernels another process uses is not for this one to choose")
    here, x = layer(8, 4), torch.randn(5, 3, 8)
    there = copy.deepcopy(here).send(b)
    with decomposed(), torch.no_grad():
        state, steps = None, []
        for step in x.split(1):
            output, state = here(step, state)
            steps.append(output)
        got = there(x.send(b))[0].get()
    assert torch.equal(got, torch.cat(steps))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EmbeddingBag", "LSTM", "MultiheadAttention", "BatchNorm"])
def test_17_layers_work_without_gradients(b: Worker, name: str) -> None:
    make, batch = LAYERS[name]
    here, x = widened(make().eval(), batch())
    there, p = copy.deepcopy(here).send(b), x.send(b)
    with torch.no_grad():
        expected, got = results_of(here, x), results_of(there, p)
    assert_equal_within(got.get(), expected)


@pytest.mark.slow
def test_17_cross_entropy(b: Worker) -> None:
    logits, labels = torch.randn(6, 4), torch.randint(0, 4, (6,))
    weights = torch.rand(4)
    for options in ({}, {"reduction": "sum"}, {"ignore_index": 1}, {"label_smoothing": 0.2}):
        expected = F.cross_entropy(logits, labels, weight=weights, **options)
        got = F.cross_entropy(logits.send(b), labels.send(b), weight=weights.send(b), **options)
        assert torch.equal(got.get(), expected)


def test_17_dropout_is_fresh_and_reproducible(b: Worker) -> None:
    p, dropout = b.ones(1000), nn.Dropout(0.5)

    def draw() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [dropout(p).get(), dropout(p).get()]

    first, second = draw(), draw()
    assert not torch.equal(first[0], first[1])
    assert all(map(torch.equal, first, second))
    assert 400 < int((first[0] == 0).sum()) < 600
    assert torch.equal(dropout.eval()(p).get(), torch.ones(1000))


def test_17_the_gradient_of_dropout_belongs_to_its_mask(b: Worker) -> None:
    p = b.ones(100).requires_grad_()
    y = F.dropout(p, 0.5)
    y.sum().backward()
    assert torch.equal(p.grad.get(), y.get().detach())


def test_17_checkpointing_repeats_the_same_dropout(b: Worker) -> None:
    p = torch.ones(100).send(b).requires_grad_()
    y = checkpoint(lambda x: F.dropout(x * 2, 0.5), p, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(p.grad.get(), y.get().detach())


def test_17_checkpointing_a_module(b: Worker) -> None:
    here = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    there = copy.deepcopy(here).send(b)
    x = torch.randn(3, 4)
    here(x).sum().backward()
    checkpoint(there, x.send(b), use_reentrant=False).sum().backward()
    assert all(torch.equal(p.grad.get(), q.grad) for p, q in zip(there.parameters(), here.parameters(), strict=True))


def test_17_a_forward_may_make_its_own_tensors(b: Worker) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            start = torch.zeros(3)
            ramp = torch.arange(3, device=x.device) + torch.tensor([1.0, 2.0, 3.0])
            return self.scale * (x + start + ramp)

    x = torch.randn(2, 3)
    here = Noisy()
    expected = here(x)
    assert torch.equal(here.send(b)(x.send(b)).get(), expected)


def test_17_backward_hooks_run(b: Worker) -> None:
    model, seen = nn.Linear(2, 1).send(b), []
    model.weight.register_hook(lambda grad: seen.append(grad.location) or grad * 2)
    (model.weight * b.ones(1, 2)).sum().backward()
    assert seen == [b]
    assert model.weight.grad.get().tolist() == [[2.0, 2.0]]


def test_21_averaging_by_hand(b: Worker, a: Worker, c: Worker) -> None:
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = (one.weight + two.weight) / 2
    m1, m2 = copy.deepcopy(one).send(b), copy.deepcopy(two).send(a)
    m1.move(c)
    m2.move(c)
    average = (m1.weight.data + m2.weight.data) / 2
    assert average.location is c
    assert torch.equal(average.get(), expected)
    assert (objs(b), objs(a)) == (0, 0)


def test_21_the_callers_model_takes_the_average(c: Worker) -> None:
    model, there = nn.Linear(2, 1), nn.Linear(2, 1).send(c)
    with torch.no_grad():
        model.weight.set_((there.weight.data * 2).get())
    assert torch.equal(model.weight, there.get().weight * 2)


def test_24_no_grad(b: Worker) -> None:
    p = torch.ones(2).send(b).requires_grad_()
    with torch.no_grad():
        q = p * 2
    assert not q.requires_grad
    assert (p * 2).requires_grad
    assert not (p * 2).detach().requires_grad


def test_24_autograd_grad_and_double_backward(b: Worker) -> None:
    x = torch.randn(4, requires_grad=True)
    p = x.send(b)
    answers = []
    for tensor in (x, p):
        (first,) = torch.autograd.grad((tensor**3).sum(), tensor, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), tensor)
        answers.append((first, second))
    for expected, got in zip(*answers, strict=True):
        assert torch.equal(got.get(), expected.detach() if not got.requires_grad else expected)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2.0, 1.0, float("inf")])
def test_24_gradient_clipping(b: Worker, norm: float) -> None:
    here = nn.Linear(3, 2)
    there = copy.deepcopy(here).send(b)
    x = torch.randn(5, 3)
    totals = []
    for model, batch in ((here, x), (there, x.send(b))):
        (model(batch) ** 2).sum().backward()
        totals.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5, norm_type=norm))
        nn.utils.clip_grad_value_(model.parameters(), 0.2)
    assert torch.equal(totals[1].get(), totals[0])
    for got, expected in zip(there.parameters(), here.parameters(), strict=True):
        assert torch.equal(got.grad.get(), expected.grad)


def test_24_schedulers(b: Worker) -> None:
    here = nn.Linear(3, 1)
    there = copy.deepcopy(here).send(b)
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    for model, inputs, targets in ((here, x, y), (there, x.send(b), y.send(b))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
        for _ in range(4):
            train(model, optimizer, inputs, targets, steps=1)
            scheduler.step()
    assert torch.equal(there.get().weight, here.weight)
