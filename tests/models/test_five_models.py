"""Five families of models learn on pointers what they learn here, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cloister import PointerTensor, VirtualWorker
from cloister.testing.models import SAMPLES
from tests.nodes import Federation

# A warning of PyTorch's at switching a CPU library off.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
STEPS = 3


@contextmanager
def same_kernels() -> Iterator[None]:
    """A pointer's composite operations become the plain ones; here, fused ones for the CPU step back."""
    with ExitStack() as stack:
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


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


def both(name: str, optimizer: str, worker: VirtualWorker) -> tuple[nn.Module, nn.Module, list[torch.Tensor]]:
    """The model trained here, the one trained at ``worker`` and brought back, and their losses in turn."""
    torch.manual_seed(0)
    sample = SAMPLES[name]
    here = sample.model()
    there = copy.deepcopy(here).send(worker)
    batches = [sample.batch(6) for _ in range(STEPS)]
    expected = train(here, OPTIMIZERS[optimizer](list(here.parameters())), batches)
    sent = [(inputs.send(worker), labels.send(worker)) for inputs, labels in batches]
    got = train(there, OPTIMIZERS[optimizer](list(there.parameters())), sent)
    assert all(isinstance(loss, PointerTensor) for loss in got)
    losses = [loss for pair in zip(expected, [loss.get() for loss in got], strict=True) for loss in pair]
    return here, there.get(), losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_model_ends_in_the_same_weights(name: str, optimizer: str) -> None:
    with same_kernels():
        here, there, losses = both(name, optimizer, VirtualWorker(id="bob"))
    for (path, expected), got in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        assert got.dtype is expected.dtype, path
        if name == "lstm":  # the gradients of its steps are summed in another order
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(got, expected), path
    assert losses[0] != losses[-1]


@pytest.mark.parametrize("name", SAMPLES)
def test_whatever_kernels_run_here_the_numbers_are_close(name: str) -> None:
    here, there, losses = both(name, "sgd", VirtualWorker(id="bob", encode=True))
    for (path, expected), got in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=path)
    for expected, got in zip(losses[::2], losses[1::2], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


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
        here, there, _ = both(name, "sgd", worker)
    for (path, expected), got in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=path)


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
    torch.testing.assert_close(predicted.detach().get(), expected.detach(), rtol=1e-4, atol=1e-5)
    del predicted  # and with it the graph, which holds the parameters
    for (path, wanted), got in zip(here.named_buffers(), there.get().buffers(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=path)
