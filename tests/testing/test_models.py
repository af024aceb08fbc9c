"""The sample models: small, whole, and each of its own family."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cloister.testing.models import SAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_a_batch_goes_through_and_its_loss_falls(name: str) -> None:
    torch.manual_seed(0)
    sample = SAMPLES[name]
    model = sample.model()
    inputs, labels = sample.batch(8)
    assert labels.shape == (8,)
    assert model(inputs).shape == (8, sample.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", SAMPLES)
def test_batches_of_any_size(name: str) -> None:
    sample = SAMPLES[name]
    model = sample.model().eval()
    for size in (1, 3):
        assert model(sample.batch(size)[0]).shape == (size, sample.classes)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_seed_makes_the_same_model_and_batch(name: str) -> None:
    def made() -> list[torch.Tensor]:
        torch.manual_seed(3)
        sample = SAMPLES[name]
        return [*sample.model().state_dict().values(), *sample.batch(2)]

    assert all(map(torch.equal, made(), made()))


@pytest.mark.parametrize("name", SAMPLES)
def test_they_are_small(name: str) -> None:
    assert sum(parameter.numel() for parameter in SAMPLES[name].model().parameters()) < 100_000
