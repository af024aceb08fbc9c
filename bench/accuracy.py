"""Training with noise that hides each record, here and with Opacus: the same data, model and numbers, side by side.

Opacus (Yousefpour et al., "Opacus: User-Friendly Differential Privacy Library in PyTorch", 2021) trains one model on
one machine; here three owners have a third of the rows each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import cloister
from cloister.study.history import Round

SEEDS: Final = range(5)
OWNERS: Final = 3


@dataclass(frozen=True, eq=False)
class Task:
    """What is learnt, with which numbers: the expected rows of a step are ``rate`` times those of all owners."""

    name: str
    model: Callable[[], nn.Module]
    rows: tuple[Tensor, Tensor]
    """To train on."""
    unseen: tuple[Tensor, Tensor]
    rate: float
    lr: float
    rounds: int
    clip: float = 1.0
    multiplier: float = 2.0

    @property
    def expected(self) -> int:
        """The rows of a step."""
        return round(self.rate * len(self.rows[0]))

    def right(self, model: nn.Module) -> float:
        """The share of right answers to what was not trained on."""
        x, y = self.unseen
        with torch.no_grad():
            return float((model(x).argmax(1) == y).float().mean())


def breast_cancer() -> Task:
    """Logistic regression."""
    from sklearn.datasets import load_breast_cancer

    rows, unseen = _split(*load_breast_cancer(return_X_y=True), train=448)
    return Task("logistic regression, breast cancer", lambda: nn.Linear(30, 2), rows, unseen, 0.125, 1.0, 60)


def digits() -> Task:
    """A small MLP."""
    from sklearn.datasets import load_digits

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    rows, unseen = _split(*load_digits(return_X_y=True), train=1440)
    return Task("MLP, digits", model, rows, unseen, 0.1, 2.0, 100)


TASKS: Final = (breast_cancer, digits)


def _split(x: object, y: object, *, train: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    inputs, labels = torch.as_tensor(x).float(), torch.as_tensor(y).long()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    inputs, labels = inputs[order], labels[order]
    spread = inputs[:train].std(0)
    inputs = (inputs - inputs[:train].mean(0)) / spread.where(spread > 0, 1.0)
    return (inputs[:train], labels[:train]), (inputs[train:], labels[train:])


@cloister.plan
def entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of a classifier."""
    return F.cross_entropy(model(x), y)


def quiet(done: Round) -> None:
    """No line for each round."""


def _first(task: Task, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return task.model()


def with_cloister(task: Task, seed: int) -> float:
    """The share of right answers after a simulated study."""
    x, y = task.rows
    owners = {str(at): (x[at::OWNERS], y[at::OWNERS]) for at in range(OWNERS)}
    run = cloister.simulate(
        _first(task, seed),
        entropy,
        owners=owners,
        optimizer=cloister.SGD(lr=task.lr),
        batch_size=512,
        rounds=task.rounds,
        clip=task.clip,
        noise=cloister.Noise(unit="record", multiplier=task.multiplier, delta=1e-5),
        sampling=cloister.Sampling(rate=task.rate, rows=task.expected),
        seed=seed,
        on_round=quiet,
    )
    return task.right(run.model)


def with_opacus(task: Task, seed: int) -> float:
    """The same, as its documentation has it."""
    model = _first(task, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its random numbers, which are not for production, and of its hooks
        from opacus import PrivacyEngine

        private, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), task.lr),
            data_loader=DataLoader(TensorDataset(*task.rows), batch_size=task.expected),
            noise_multiplier=task.multiplier,
            max_grad_norm=task.clip,
        )
        for x, y in islice(chain.from_iterable(repeat(loader)), task.rounds):
            optimizer.zero_grad()
            F.cross_entropy(private(x), y).backward()
            optimizer.step()
    return task.right(model)


def without_noise(task: Task, seed: int) -> float:
    """The same steps, neither clipped nor noisy."""
    model = _first(task, seed)
    optimizer = torch.optim.SGD(model.parameters(), task.lr)
    x, y = task.rows
    for _ in range(task.rounds):
        drawn = torch.rand(len(x)) < task.rate
        optimizer.zero_grad()
        (F.cross_entropy(model(x[drawn]), y[drawn], reduction="sum") / task.expected).backward()
        optimizer.step()
    return task.right(model)
