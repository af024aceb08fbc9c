"""A plan for many models at once: equal to a step of each, and refused where that cannot be had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import PlanError
from cloister.testing.models import SAMPLES
from cloister.worker.plans import PlannedLoss
from tests.tensor.plan.steps import loss

CPU = torch.device("cpu")
MODELS, SIZE = 3, 5


def stacked(values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in values]).detach() for name in values[0]}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_the_five_models_step_together_as_alone(name: str) -> None:
    torch.manual_seed(4)
    models = [SAMPLES[name].model() for _ in range(MODELS)]
    batches = [SAMPLES[name].batch(SIZE) for _ in range(MODELS)]
    plan = loss.capture(models[0], example=SAMPLES[name].batch(4))
    parameters = [dict(each.named_parameters()) for each in models]
    buffers = [dict(each.named_buffers()) for each in models]
    batch = [torch.stack(column) for column in zip(*batches, strict=True)]
    found = plan.vectorised(SIZE, CPU).run(stacked(parameters), stacked(buffers), batch)
    for at in range(MODELS):
        alone = plan.step(parameters[at], buffers[at], batches[at])
        assert float(found.loss[at]) == pytest.approx(float(alone.loss), rel=1e-5)
        for here, there in ((found.gradients, alone.gradients), (found.buffers, alone.buffers)):
            assert here.keys() == there.keys()
            for key, value in there.items():
                torch.testing.assert_close(here[key][at], value, rtol=0, atol=1e-5 * float(value.abs().max()))


@cloister.plan
def gathered(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Takes what the labels name with an operation that checks them itself."""
    return -model(x).log_softmax(1).gather(1, y[:, None]).mean()


@cloister.plan
def indexed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same by indexing."""
    return -model(x).log_softmax(1)[torch.arange(len(x)), y].mean()


@cloister.plan
def looked_up(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Rows of a parameter that the labels name."""
    return F.embedding(y, model.weight).sum() + model(x).sum()  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("planned", [gathered, indexed, looked_up])
@pytest.mark.parametrize("label", [5, 2**40, -6])
def test_no_index_reaches_another_model(planned: PlannedLoss, label: int) -> None:
    model = nn.Linear(4, 5)
    plan = planned.capture(model, example=(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long)))
    together = plan.vectorised(SIZE, CPU)
    held = stacked([dict(model.named_parameters())] * MODELS)
    y = torch.arange(MODELS * SIZE).view(MODELS, SIZE) % 5
    found = together.run(held, {}, [torch.ones(MODELS, SIZE, 4), y])
    alone = plan.step(dict(model.named_parameters()), {}, [torch.ones(SIZE, 4), y[1]])
    torch.testing.assert_close(found.gradients["weight"][1], alone.gradients["weight"])
    y[0, 2] = label
    with pytest.raises(PlanError):
        together.run(held, {}, [torch.ones(MODELS, SIZE, 4), y])


@cloister.plan
def divided(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A division whose arguments a worker looks at."""
    return model(x).sum() * torch.div(y, y + 1, rounding_mode="trunc").sum()


@cloister.plan
def unpooled(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """An operation that follows indices, of which nothing is known here."""
    return model(x).sum() + model.weight.take(y).sum()  # type: ignore[operator, union-attr]


@pytest.mark.slow
@pytest.mark.parametrize(("planned", "why"), [(divided, "a look at values"), (unpooled, "follows indices unchecked")])
def test_what_is_refused_says_why(planned: PlannedLoss, why: str) -> None:
    plan = planned.capture(nn.Linear(4, 5), example=(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long)))
    with pytest.raises(PlanError, match=why):
        plan.vectorised(SIZE, CPU)


@pytest.mark.slow
def test_what_pytorch_cannot_vectorise_is_refused() -> None:
    @cloister.plan
    def planned(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        logits = model(x)
        return {"loss": logits.sum(), "largest": logits.detach().renorm(2, 0, 1.0).max()}

    plan = planned.capture(nn.Linear(4, 5), example=(torch.randn(6, 4),))
    with pytest.raises(PlanError, match=r"aten::renorm.*in its vectorised form"):
        plan.vectorised(SIZE, CPU)


class Anchored(nn.Module):
    """Indices that all models share, into what they share or into a table of each's own."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.register_buffer("scores", torch.randn(2, 6))
        if not shared:
            self.table = nn.Embedding(6, 4)
        self.register_buffer("classes", torch.tensor([0, 5]))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.shared:
            return self.head(x + F.multi_margin_loss(self.scores, self.classes))  # type: ignore[no-any-return]
        return self.head(x + self.table(self.classes).mean(0))  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("index", [6, -1, 2**40])
def test_indices_that_all_share_are_checked_by_their_kernel(index: int, shared: bool) -> None:
    torch.manual_seed(0)
    model = Anchored(shared=shared)
    plan = loss.capture(model, example=(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long)))
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    own = stacked([parameters] * MODELS)
    batch = [torch.ones(MODELS, SIZE, 4), torch.arange(MODELS * SIZE).view(MODELS, SIZE) % 3]
    together = plan.vectorised(SIZE, CPU)
    found = together.run(own, buffers, batch)
    alone = plan.step(parameters, buffers, [each[1] for each in batch])
    for name, gradient in alone.gradients.items():
        torch.testing.assert_close(found.gradients[name][1], gradient)
    assert found.buffers == {}
    with pytest.raises(PlanError, match="multi_margin_loss" if shared else "embedding"):
        together.run(own, {**buffers, "classes": torch.tensor([0, index])}, batch)
