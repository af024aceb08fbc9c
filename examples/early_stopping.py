"""Four owners with few pictures each train a model until it gets no better, and the best one is kept.

    python examples/early_stopping.py

``on_round`` stops it by raising an error. In a study it is the same: ``study.fit(..., on_error="stop")`` ends the job
at the aggregator before it raises.
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import cloister

ROUNDS = 200
PATIENCE = 5

digits = load_digits()
torch.manual_seed(0)
shuffled = torch.randperm(len(digits.target))
x = torch.tensor(digits.data / 16, dtype=torch.float32)[shuffled]
y = torch.tensor(digits.target)[shuffled]
x, x_judged, y, y_judged = x[:400], x[400:], y[:400], y[400:]


class NoBetterError(Exception):
    """The model has got no better for some rounds."""


class Best:
    """The best model so far, by its loss on pictures that no owner has."""

    def __init__(self, patience):
        self.patience = patience
        self.loss = float("inf")
        self.model = None
        self.since = 0

    @torch.no_grad()
    def evaluate(self, model):
        """Judges the model of a round, and keeps it if it is the best."""
        loss = F.cross_entropy(model(x_judged), y_judged).item()
        self.since += 1
        if loss < self.loss:
            self.loss, self.model, self.since = loss, copy.deepcopy(model), 0
        return {"loss": loss}

    def on_round(self, done):
        """Stops after ``patience`` rounds without a better one."""
        print(done)
        if self.since >= self.patience:
            raise NoBetterError(f"round {done.number} is the {self.patience}th without a better model")


@cloister.plan
def loss(model, x, y):
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


best = Best(PATIENCE)
try:
    cloister.simulate(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        loss,
        owners={f"owner {number}": (x[number::4], y[number::4]) for number in range(4)},
        optimizer=cloister.SGD(lr=0.2, momentum=0.9),
        batch_size=32,
        steps=9,
        rounds=ROUNDS,
        evaluate=best.evaluate,
        on_round=best.on_round,
    )
except NoBetterError as reason:
    print(reason)
accuracy = (best.model(x_judged).argmax(1) == y_judged).float().mean().item()
print(f"the best model has a loss of {best.loss:.3f}, and is right about {accuracy:.1%}")
