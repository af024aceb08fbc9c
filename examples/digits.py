"""Ten owners of handwritten digits, each with few of the ten, train one model: docs/tutorial.md in its shortest form.

    python examples/digits.py

It prints the rounds and leaves a picture of them, digits.svg.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import cloister

digits = load_digits()
torch.manual_seed(0)
shuffled = torch.randperm(len(digits.target))
x = torch.tensor(digits.data / 16, dtype=torch.float32)[shuffled]
y = torch.tensor(digits.target)[shuffled]
(x_test, x), (y_test, y) = x.split([397, 1400]), y.split([397, 1400])


@cloister.plan
def loss(model, x, y):
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


@torch.no_grad()
def judge(model):
    """How often it is right about pictures that no owner has."""
    return {"accuracy": (model(x_test).argmax(1) == y_test).float().mean().item()}


run = cloister.simulate(
    nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    loss,
    owners={
        f"owner {number}": (x[rows], y[rows])
        for number, rows in enumerate(cloister.split_by_label(y, owners=10, labels_each=2, seed=0))
    },
    optimizer=cloister.SGD(lr=0.1, momentum=0.9),
    batch_size=32,
    local_epochs=3,
    rounds=10,
    strategy=cloister.FedAvgM(momentum=0.9),
    evaluate=judge,
)
print(run.history)
run.history.plot("accuracy", "evaluated accuracy").figure.savefig("digits.svg")
