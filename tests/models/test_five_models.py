"""Five families of models learn on pointers what they learn here, to the last bit where they decompose alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from cloister import PointerTensor, VirtualWorker
from cloister.testing.models import SAMPLES
from tests.rounding import assert_equal_within, decomposed, widened
from tests.support.nodes import Federation

# A warning of PyTorch's at switching a CPU library off.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
STEPS = 3


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> list[torch.Tensor]:
    """One step for each batch; the losses."""
    losses = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def both(
    name: str, optimizer: str, worker: VirtualWorker, *, wide: bool = False
) -> tuple[nn.Module, nn.Module, list[torch.Tensor]]:
    """The model trained here, the one trained at ``worker`` and brought back, and their losses in turn.

    ``wide`` computes in float64.
    """
    torch.manual_seed(0)
    sample = SAMPLES[name]
    here = sample.model()
    batches = [sample.batch(6) for _ in range(STEPS)]
    if wide:
        here = here.double()
        batches = [widened(here, *batch)[1:] for batch in batches]
    there = copy.deepcopy(here).send(worker)
    expected = train(here, OPTIMIZERS[optimizer](list(here.parameters())), batches)
    sent = [(inputs.send(worker), labels.send(worker)) for inputs, labels in batches]
    got = train(there, OPTIMIZERS[optimizer](list(there.parameters())), sent)
    assert all(isinstance(loss, PointerTensor) for loss in got)
    losses = [loss for pair in zip(expected, [loss.get() for loss in got], strict=True) for loss in pair]
    return here, there.get(), losses


def assert_states_agree(here: nn.Module, there: nn.Module) -> None:
    """Two models in float64, within what the order of sums may change."""
    for (path, expected), got in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        assert_equal_within(got, expected, name=path)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "lstm"])  # whose steps PyTorch takes at once here
def test_a_model_ends_in_the_same_weights_to_the_bit(name: str, optimizer: str) -> None:
    with decomposed():
        here, there, losses = both(name, optimizer, VirtualWorker(id="bob"))
    for (path, expected), got in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        assert got.dtype is expected.dtype, path
        assert torch.equal(got, expected), path
    assert losses[0] != losses[-1]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_whatever_kernels_run_here_the_numbers_are_close(name: str, optimizer: str) -> None:
    here, there, losses = both(name, optimizer, VirtualWorker(id="bob", encode=True), wide=True)
    assert_states_agree(here, there)
    for expected, got in zip(losses[::2], losses[1::2], strict=True):
        assert_equal_within(got, expected)
    assert losses[0] != losses[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_stays_at_the_worker(name: str) -> None:
    worker = VirtualWorker(id="bob")
    sample = SAMPLES[name]
    model = sample.model().send(worker)
    inputs, labels = sample.batch(2)
    train(model, OPTIMIZERS["sgd"](list(model.parameters())), [(inputs.send(worker), labels.send(worker))])
    with torch.no_grad():
        model.eval()(inputs.send(worker))
    model.zero_grad()
    model.get()
    assert worker.count().objects == 0
    assert worker.count().nbytes == 0


@pytest.mark.e2e
@pytest.mark.parametrize("name", SAMPLES)
def test_so_it_is_in_a_process_of_its_own(name: str, three_nodes: Federation) -> None:
    with three_nodes.connect("b") as worker:
        here, there, _ = both(name, "sgd", worker, wide=True)
    assert_states_agree(here, there)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_model_predicts_in_every_mode(
    name: str, training: bool, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    torch.manual_seed(0)
    sample, bob = SAMPLES[name], VirtualWorker(id="bob", encode=True)
    here, (inputs, _) = sample.model().train(training), sample.batch(4)
    for part in here.modules():
        if isinstance(part, nn.Dropout):
            part.eval()  # its masks are drawn in another order there
    there = copy.deepcopy(here).send(bob)
    pointer = inputs.send(bob)
    with mode():
        expected, predicted = here(inputs), there(pointer)
    assert predicted.requires_grad is expected.requires_grad
    got = predicted.detach().get()
    del predicted  # whose graph holds the parameters
    torch.testing.assert_close(got, expected.detach(), rtol=1e-4, atol=1e-5)
    for (path, wanted), buffer in zip(here.named_buffers(), there.get().buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, rtol=1e-4, atol=1e-6, msg=path)
