"""What a plan learns: read off the program, without a model."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch import nn

import cloister
from cloister.errors import PlanError
from cloister.tensor.plan.learned import learned


@cloister.plan
def squares(model, x):
    return (model(x.float()) ** 2).mean()


def captured(model: nn.Module):
    return squares.capture(model, example=(torch.zeros(4, 3),)).program


def test_what_has_a_gradient_or_is_written_is_learned_and_counters_are_not():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    found = learned(captured(model))
    assert found.parameters == ("1.weight", "1.bias", "2.weight", "2.bias")
    assert found.buffers == ("1.running_mean", "1.running_var")
    assert found.names == {*found.parameters, *found.buffers}


def test_a_parameter_that_the_loss_does_not_reach_and_a_buffer_that_is_only_read_are_not():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)
            self.register_buffer("scale", torch.ones(2))

        def forward(self, x):
            return self.used(x) * self.scale

    found = learned(captured(Reads()))
    assert found.parameters == ("used.weight", "used.bias")
    assert found.buffers == ()


def test_statistics_of_a_batch_norm_in_eval_mode_are_only_read():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            norms = nn.BatchNorm1d(3), nn.InstanceNorm1d(1, track_running_stats=True)
            self.base = nn.Sequential(nn.Linear(3, 3), *norms).requires_grad_(False)
            self.head = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

        def forward(self, x):
            self.base.eval()
            seen = self.base[1](self.base[0](x))
            return self.head(self.base[2](seen.unsqueeze(1)).squeeze(1))

    torch.manual_seed(0)
    model, batch = Frozen(), (torch.randn(5, 3),)
    plan = squares.capture(model, example=batch)
    assert learned(plan.program).buffers == ("head.1.running_mean", "head.1.running_var")
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    before = {name: each.clone() for name, each in buffers.items()}
    outcome = plan.step(parameters, buffers, batch, seed=0, step=0)
    squares.function(model, *batch)  # which is what PyTorch does
    for name, after in outcome.buffers.items():
        assert torch.allclose(after, dict(model.named_buffers())[name]), name
        assert torch.equal(after, before[name]) == (name.startswith("base") or "counted" in name), name


def test_a_tied_weight_comes_under_its_first_name():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert learned(captured(model)).parameters == ("0.weight",)


def test_a_program_that_nobody_checked_is_refused():
    with pytest.raises(PlanError, match="one gradient for each parameter"):
        learned(replace(captured(nn.Linear(3, 2)), gradients=()))
