"""A search over jobs, and over pairs of releases, for means that are one owner's or one row's.

Everything that the rules ask for is kept: numbers within ``charter.job_bounds``, the same whole batches for all owners,
rows and orders that are secret, equal weights, and levelling at the floor. The attacker is the researcher: it knows the
plan, the job, who was in a round, and the model before and after it. It does not know any row, and has no data.

Where it would have to choose (which unit, which multiple of which release) it is given the best choice, so that what is
measured is what a cleverer one could reach at most with the same means:

* a row: the least error, over units and rows, of what a unit says that it saw, in spreads of the columns;
* an owner: the greatest cosine of its update with anything that can be added up of the releases.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.aggregation import strategies
from cloister.aggregation.dominance import bound_of, scales_of
from cloister.aggregation.mean import shares
from cloister.aggregation.strategies import State, apply_to_parameters
from cloister.charter import job_bounds
from cloister.charter.charter import MIN_ROWS
from cloister.charter.jobs import AgreedJob
from cloister.wire.layout import Layout, Regions, regions_of
from cloister.wire.optimizers import SGD, Adam, CosineDecay, StepDecay
from cloister.wire.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy
from cloister.worker import flatten as deltas
from cloister.worker import optimizers
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import seeds_of, simulated_salt
from cloister.worker.plans import Plan
from cloister.worker.training import train
from tests.support.charters import agreed_job

FLOOR: Final = 3
CLIP: Final = 10.0
LARGEST_SHARE: Final = 0.5
READ: Final = 0.05
"""Of a column's spread: a row is read by what is nearer to it in all columns."""
LIKE: Final = 0.9
"""The cosine from which an estimate is an owner's update."""

Data: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Setting:
    """A model to begin with, and the owners' data."""

    model: nn.Module
    plan: Plan
    data: Data
    layer: int = 0
    """The place of the layer whose units are asked what they saw."""

    @property
    def rows(self) -> Tensor:
        """All owners' rows, as that layer sees them in the model to begin with."""
        x = torch.cat([x for x, _ in self.data.values()])
        with torch.no_grad():
            below = copy.deepcopy(self.model[: self.layer]) if self.layer else nn.Sequential()  # type: ignore[index]
            found: Tensor = below.train()(x).flatten(1).double()
        return found

    @property
    def layout(self) -> Layout:
        return deltas.layout_of(deltas.floats_of(self.model))

    @property
    def regions(self) -> Regions:
        return regions_of(self.layout, buffers={name for name, _ in self.model.named_buffers()})


@dataclass(frozen=True, eq=False)
class Release:
    """A round: what the researcher has of it, and what it does not have."""

    before: nn.Module
    after: nn.Module
    mean: Tensor
    """As the researcher works it out from both models and the strategy's numbers."""
    state: State
    updates: Mapping[str, Tensor]
    """What each owner sent, parameters and buffers."""
    scales: Mapping[str, float]
    """By what the parameters of each were scaled."""
    setting: Setting
    rows: float
    """How many rows of each owner count in it."""

    def tensors(self, vector: Tensor) -> dict[str, Tensor]:
        """The tensors of a vector, by name."""
        places = self.setting.layout.places
        return {place.name: vector[place.start : place.stop].view(place.spec.shape) for place in places}

    def parameters(self, vector: Tensor) -> Tensor:
        """The parameters of a vector in one."""
        return torch.cat([vector[each] for each in self.setting.regions.parameters]).double()


def job(setting: Setting, **changed: Any) -> AgreedJob:
    """A job that a charter can have."""
    found = agreed_job(setting.plan.digest, **changed)
    out_of_bounds = [text for _, text in job_bounds.faults(found)]
    assert not out_of_bounds, out_of_bounds
    return found


def release(
    setting: Setting,
    wanted: AgreedJob,
    *,
    number: int = 1,
    seed: int = 0,
    names: Sequence[str] = (),
    level: bool = True,
    last: Release | None = None,
) -> Release:
    """One round of a job, of these owners (all of them): the first one, or the one after ``last``."""
    before = setting.model if last is None else last.after
    found = {}
    for name in names or sorted(setting.data):
        columns = dict(zip(("x", "y"), setting.data[name], strict=True))
        seeds = seeds_of(simulated_salt(seed, name), job=repr(wanted).encode(), number=number)
        found[name] = train(
            setting.plan,
            Arrays(columns),
            parameters=dict(before.named_parameters()),
            buffers=dict(before.named_buffers()),
            optimizer=optimizers.read(wanted.optimizer),
            batch_size=wanted.batch_size,
            steps=wanted.steps,
            seed=seeds.steps,
            rows_seed=seeds.rows,
            proximal=wanted.proximal,
            clip=CLIP,
            layout=setting.layout,
        )
    norms = {name: each.norms for name, each in found.items()}
    bounds = [bound_of(some, floor=FLOOR, clip=CLIP) for some in zip(*norms.values(), strict=True)]
    counted = {name: len(setting.data[name][0]) if wanted.weights == "rows" else 1 for name in found}
    weights = shares(counted, largest_share=LARGEST_SHARE)
    vector = deltas.flatten(deltas.floats_of(before), layout=setting.layout).numpy()
    total = np.zeros(len(vector))
    scaled = {}
    for name, each in found.items():
        for part, scale in scales_of(norms[name], bounds=bounds, regions=setting.regions):
            total[part] += each.delta[part].double().numpy() * (scale if level else 1.0) * weights[name]
        scaled[name] = min(1.0, bounds[0] / norms[name].parameters) if level else 1.0
    strategy = strategies.read(wanted.strategy)
    state = strategy.start(len(vector)) if last is None else last.state
    moved, then = apply_to_parameters(strategy, vector, mean=total, state=state, buffers=setting.regions.buffers)
    after = copy.deepcopy(before)
    deltas.unflatten(torch.from_numpy(moved), layout=setting.layout, into=deltas.floats_of(after))
    mean = worked_out(wanted.strategy, vector, moved, (state, then), setting.regions)
    updates = {name: each.delta.double() for name, each in found.items()}
    return Release(before, after, mean, then, updates, scaled, setting, job_bounds.rows_that_count(wanted))


def worked_out(strategy: Strategy, before: Any, after: Any, states: tuple[State, State], regions: Regions) -> Tensor:
    """The mean from the models before and after a round, or from what the strategy carries on: both are released."""
    old, new = torch.from_numpy(before).double(), torch.from_numpy(after).double()
    mean = new - old
    for part in regions.parameters:
        if isinstance(strategy, FedAvg | FedProx):
            mean[part] = (new[part] - (1 - strategy.decay) * old[part]) / strategy.lr
            continue
        was, now = (torch.from_numpy(state.momentum[part]) for state in states)  # type: ignore[index]
        if isinstance(strategy, FedAvgM):
            mean[part] = now - strategy.momentum * was
        else:
            mean[part] = (now - strategy.beta1 * was) / (1 - strategy.beta1)
    return mean


# Models, and data of owners

Inputs = Literal["centred", "raw"]
NAMES: Final = ("alice", "bob", "carol", "dave", "erin")
DIGITS: Final = 10
WORDS, WORDS_EACH, WORDS_A_ROW = 600, 60, 12
"""Words in all, those of one owner alone, and the words of a row."""


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy."""
    return {"loss": F.cross_entropy(model(x), y)}


class Bag(nn.Module):
    """The mean of the words' vectors, and a layer on it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.last = nn.Linear(16, DIGITS)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.words(x).mean(1))
        return found


class Kind(NamedTuple):
    """A kind of model, the least batch that it is tried with, and the place of the layer whose units are asked."""

    build: Callable[[], nn.Module]
    batch: int
    layer: int = 0


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, DIGITS))


def _normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, DIGITS))


def _first_normalised() -> nn.Module:
    inputs = nn.BatchNorm1d(64, affine=False)
    return nn.Sequential(inputs, nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, DIGITS))


def _cnn() -> nn.Module:
    seen = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*seen, nn.Linear(288, 128), nn.ReLU(), nn.Linear(128, DIGITS))


KINDS: Final = {
    "MLP, 16 wide": Kind(lambda: _mlp(16), 32),
    "MLP, 256 wide": Kind(lambda: _mlp(256), 64),
    "MLP with BatchNorm": Kind(_normalised, 32),
    "MLP after BatchNorm": Kind(_first_normalised, 64, 1),
    "CNN": Kind(_cnn, 32, 4),
}
"""All as PyTorch draws them."""


@cache
def digits(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Pictures of 64 values from 0 to 1, most of them dark; or with every column's mean 0 and spread 1."""
    found = load_digits()
    x, y = torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[mixed], y[mixed]
    return ((x - x.mean(0)) / (x.std(0) + 0.01), y) if inputs == "centred" else (x, y)


def dealt(count: int, *, inputs: Inputs = "centred", rows: int = 150) -> Data:
    """So many owners' data, all drawn alike."""
    x, y = digits(inputs)
    parts = zip(NAMES[:count], x.split(rows), y.split(rows), strict=False)
    return {name: (some, labels.clone()) for name, some, labels in parts}


def wrong(y: Tensor) -> Tensor:
    """Other labels than these."""
    return (y + 5) % DIGITS


@cache
def first(kind: str, *, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KINDS[kind].build()


@cache
def trained(
    kind: str, *, inputs: Inputs = "centred", steps: int = 600, start: int = 900, also: tuple[int, int] = (0, 0)
) -> nn.Module:
    """A model that has been trained on the rows from ``start`` on, and those from one number to another: on no owner's
    unless others are named."""
    model, (x, y) = copy.deepcopy(first(kind)), digits(inputs)
    x, y = (torch.cat([part[start:], part[slice(*also)]]) for part in (x, y))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


def setting(model: nn.Module, data: Data, *, layer: int = 0) -> Setting:
    x, y = next(iter(data.values()))
    return Setting(model, loss.capture(model, example=(x[:4], y[:4])), data, layer)


def words(count: int, *, rows: int = 150) -> Data:
    """Owners' texts: most words are everybody's, and some are of one owner alone."""
    generator = torch.Generator().manual_seed(4)
    found = {}
    for at, name in enumerate(NAMES[:count]):
        common = torch.randint(0, WORDS - WORDS_EACH * len(NAMES), (rows, WORDS_A_ROW), generator=generator)
        own = WORDS - WORDS_EACH * (at + 1) + torch.randint(0, WORDS_EACH, (rows, WORDS_A_ROW), generator=generator)
        x = torch.where(torch.rand(rows, WORDS_A_ROW, generator=generator) < 0.05, own, common)
        found[name] = (x, torch.randint(0, DIGITS, (rows,), generator=generator))
    return found


# Jobs

Course: TypeAlias = tuple[dict[str, Any], ...]
"""The numbers of one release after the other."""


def _once(**changed: Any) -> Course:
    return (changed,)


def _twice(**changed: Any) -> Course:
    return (changed, changed)


FAMILIES: Final[dict[str, tuple[Course, ...]]] = {
    "rates": tuple(_once(optimizer=SGD(lr)) for lr in (1e-2, 0.1, 1.0)),
    "momentum": (
        _once(optimizer=SGD(0.1, momentum=0.99)),
        _once(optimizer=SGD(1.0, momentum=0.9, dampening=0.9)),
        _once(optimizer=SGD(0.1, momentum=0.999, nesterov=True)),
        _once(optimizer=SGD(1.0, momentum=0.01, dampening=0.9)),
    ),
    "schedules": (
        _once(optimizer=SGD(1.0, schedule=CosineDecay(1, 0.1))),
        _once(optimizer=SGD(1.0, schedule=StepDecay(1, 0.47))),
        _once(optimizer=SGD(0.1, momentum=0.9, dampening=0.9, schedule=CosineDecay(2, 0.011))),
    ),
    "clipped gradients": (_once(optimizer=SGD(1.0, clip_norm=1e-3)), _once(optimizer=SGD(0.1, clip_norm=1.0))),
    "Adam": tuple(
        _once(optimizer=optimizer, steps=8)
        for optimizer in (
            Adam(1e-6),
            Adam(0.1),
            Adam(0.001, eps=1e-2),
            Adam(0.001, betas=(0.0, 0.9), eps=1e-10),
            Adam(0.01, betas=(0.99, 0.9999), amsgrad=True),
        )
    ),
    "strategies, two rounds": tuple(
        _twice(strategy=strategy)
        for strategy in (
            FedAvg(0.5),
            FedAvg(10.0),
            FedAvg(1.0, decay=0.5),
            FedProx(mu=9.0),
            FedAvgM(momentum=0.99, lr=10.0),
            FedAdam(1e-3, beta1=0.0, tau=1e-8),
            FedAdam(10.0, beta1=0.99, beta2=0.9999, tau=0.1),
            FedYogi(0.01),
            FedAdagrad(1.0, tau=1.0),
        )
    ),
    "two jobs": (
        _twice(optimizer=SGD(1e-2)),
        ({"optimizer": SGD(1e-2)}, {"optimizer": SGD(1e-2), "steps": 5}),
        ({"optimizer": SGD(1e-2)}, {"optimizer": SGD(0.1)}),
        ({"optimizer": SGD(0.1)}, {"optimizer": SGD(0.1, momentum=0.9)}),
        ({"optimizer": SGD(0.1)}, {"optimizer": Adam(0.001), "steps": 8}),
        ({"optimizer": SGD(0.1)}, {"optimizer": SGD(0.1), "strategy": FedProx(mu=9.0)}),
        ({"optimizer": SGD(0.1)}, {"optimizer": SGD(0.1, schedule=CosineDecay(1, 0.011))}),
    ),
}
"""Each at the end of its bounds, and pairs of jobs that one charter can have."""
ROWS: Final = 128
"""Of each owner behind a round, where nothing else is said."""


def releases_of(setting: Setting, course: Course, *, batch_size: int, seed: int = 0, **changed: Any) -> list[Release]:
    """One release after the other; each of at least ``ROWS`` rows of each owner where nothing else is said."""
    found: list[Release] = []
    for number, numbers in enumerate(course, start=1):
        steps = {"batch_size": batch_size, "steps": max(2, ROWS // batch_size)}
        wanted = job(setting, **{**steps, **numbers, **changed})
        found.append(release(setting, wanted, number=number, seed=seed, last=found[-1] if found else None))
    return found


# What is read out of releases


def seen_by_units(released: Release, vector: Tensor) -> Tensor:
    """What each unit of a layer says that it saw: its weights' change over its bias's (Fowl et al., "Robbing the Fed",
    ICLR 2022), of those whose bias changed."""
    tensors, layer = released.tensors(vector), released.setting.layer
    weights, biases = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
    touched = biases.abs() > 1e-9 * biases.abs().max().clamp(min=1e-30)
    return weights[touched] / biases[touched, None]


def apart(guesses: Tensor, rows: Tensor) -> Tensor:
    """How far each guess is from each row, in the column where it is furthest, in spreads of the columns; those that do
    not vary are left out."""
    spread = rows.std(0)
    varied = spread > 1e-6
    return torch.cdist(guesses[:, varied] / spread[varied], rows[:, varied] / spread[varied], p=float("inf"))


def row_error(releases: Sequence[Release]) -> float:
    """The least error with which any row of any owner is read: from each mean, and from the difference of each two."""
    means = [each.mean for each in releases]
    pairs = (one - two for one, two in itertools.combinations(means, 2))
    rows, first_one = releases[0].setting.rows, releases[0]
    guesses = torch.cat([seen_by_units(first_one, each) for each in (*means, *pairs)])
    return float(apart(guesses, rows).min()) if len(guesses) else float("inf")


def rows_read(released: Release) -> int:
    """How many different rows of the owners' some unit has."""
    found = apart(seen_by_units(released, released.mean), released.setting.rows)
    return len(set(found.argmin(1)[found.amin(1) < READ].tolist()))


def cosine(one: Tensor, two: Tensor) -> float:
    return float(one @ two / (one.norm() * two.norm()).clamp(min=1e-30))


def owner_cosine(releases: Sequence[Release], *, name: str | None = None) -> float:
    """The greatest cosine of an owner's update in the first release (or of any owner's) with anything that can be added
    up of the means of all releases."""
    means = torch.stack([each.parameters(each.mean) for each in releases], 1)
    base = torch.linalg.qr(means / means.norm(dim=0)).Q
    updates = releases[0].updates
    return max(
        float((base.T @ (own := releases[0].parameters(updates[who]))).norm() / own.norm().clamp(min=1e-30))
        for who in ([name] if name else updates)
    )


# Figures, each of one attack


def with_a_misfit(kind: str) -> Setting:
    """A model that fits all rows of all owners but one of alice's, whose label is wrong."""
    model, data = _fitting(kind)
    y = data["alice"][1]
    y[17] = wrong(y[17])
    return setting(model, data)


def with_wrong_labels(kind: str) -> Setting:
    """The same, of whom alice has wrong labels only."""
    model, data = _fitting(kind)
    return setting(model, {**data, "alice": (data["alice"][0], wrong(data["alice"][1]))})


def _fitting(kind: str) -> tuple[nn.Module, dict[str, tuple[Tensor, Tensor]]]:
    model = trained(kind, start=0)
    return model, {name: (x, model(x).argmax(1)) for name, (x, _) in dealt(3).items()}


def with_one_fitted() -> Setting:
    """Four owners, and a model that has seen dave's rows and none of the others'."""
    return setting(trained("MLP, 16 wide", steps=300, also=(450, 600)), dealt(4))


def with_one_larger() -> Setting:
    """Alice has twice as many rows as bob and carol."""
    x, y = digits("centred")
    data = {name: (x[a:b], y[a:b]) for name, a, b in (("alice", 0, 300), ("bob", 300, 450), ("carol", 450, 600))}
    return setting(trained("MLP, 16 wide"), data)


def misfit(setting: Setting, *, level: bool) -> tuple[float, int]:
    """The cosine of alice's update with the mean, and how many rows are read from it."""
    found = release(setting, job(setting, batch_size=64, steps=2), level=level)
    return owner_cosine([found], name="alice"), rows_read(found)


def rows_in_rounds(
    kind: str, *, inputs: Inputs, fitted: bool, batch_size: int, steps: int, rounds: int = 5, lr: float = 0.1
) -> float:
    """How many rows are read from a round, in the mean of several: other first models, or other rows."""
    found = 0
    for seed in range(rounds):
        model = trained(kind, inputs=inputs) if fitted else first(kind, seed=seed)
        here = setting(model, dealt(3, inputs=inputs), layer=KINDS[kind].layer)
        wanted = job(here, batch_size=batch_size, steps=steps, optimizer=SGD(lr))
        found += rows_read(release(here, wanted, seed=seed))
    return found / rounds


def absence(setting: Setting, *, lr: float, batch_size: int = 64, who: str = "dave", **changed: Any) -> float:
    """The cosine of an owner's update with what two rounds differ by, of which it was in the first alone."""
    wanted = job(setting, batch_size=batch_size, steps=2, optimizer=SGD(lr), **changed)
    one = release(setting, wanted)
    names = [name for name in one.updates if name != who]
    two = release(setting, wanted, number=2, last=one, names=names)
    found = len(one.updates) * one.mean - len(names) * two.mean
    return cosine(one.parameters(found), one.parameters(one.updates[who]))


class Best(NamedTuple):
    """The least error with which any job of a family reads a row, and the greatest cosine of an owner's update.
    ``few`` is the least error of those in which fewer than ``MIN_ROWS`` rows of an owner count, ``row`` that of the
    others."""

    row: float
    few: float
    owner: float


def searched(
    kind: str,
    family: str,
    *,
    fitted: bool,
    inputs: Inputs = "centred",
    batch_size: int | None = None,
    seeds: Sequence[int] = (0,),
) -> Best:
    """All jobs of a family, on a model as it is drawn or one that is trained, with these secrets."""
    found = []
    for seed in seeds:
        model = trained(kind, inputs=inputs) if fitted else first(kind, seed=seed)
        here = setting(model, dealt(3, inputs=inputs), layer=KINDS[kind].layer)
        for number, course in enumerate(FAMILIES[family]):
            released = releases_of(here, course, batch_size=batch_size or KINDS[kind].batch, seed=100 * seed + number)
            error, many = row_error(released), min(each.rows for each in released) >= MIN_ROWS
            never = float("inf")
            found.append(Best(error if many else never, never if many else error, owner_cosine(released)))
    return Best(min(each.row for each in found), min(each.few for each in found), max(each.owner for each in found))


class Told(NamedTuple):
    """What a round tells of words: of those that one owner alone has and trained on, the share that is told, and of
    those that are told, the share that is one of them; and the cosine with that owner's own change to them."""

    found: float
    right: float
    cosine: float


def words_told(who: str = "alice") -> Told:
    """An embedding changes for the words that there were, and for no others."""
    here = setting(Bag(), words(3))
    one = release(here, job(here, batch_size=32, steps=4))
    changed = one.tensors(one.mean)["words.weight"]
    touched = set(changed.abs().amax(1).nonzero()[:, 0].tolist())
    words_of = {name: one.tensors(each)["words.weight"] for name, each in one.updates.items()}
    used = {name: set(each.abs().amax(1).nonzero()[:, 0].tolist()) for name, each in words_of.items()}
    alone = used[who] - set.union(*(used[name] for name in used if name != who))
    at = sorted(alone)
    everybody = set.union(*used.values())
    return Told(
        len(alone & touched) / len(alone),
        len(touched & everybody) / len(touched),
        cosine(changed[at].flatten(), words_of[who][at].flatten()),
    )


def label_error(*, steps: int = 4) -> float:
    """How far the shares of the labels that owners trained on are from what the last layer's biases say, at most, in
    points. The researcher takes what the first model says of any input for what it says of theirs."""
    few = {name: (x[y < 7], y[y < 7]) for name, (x, y) in dealt(3).items()}
    here = setting(first("MLP, 16 wide"), few)
    lr, batch = 1e-2, 32
    one = release(here, job(here, batch_size=batch, steps=steps, optimizer=SGD(lr)))
    biases = one.tensors(one.mean)["2.bias"]
    with torch.no_grad():
        said = here.model(torch.randn(4096, 64, generator=torch.Generator().manual_seed(1))).softmax(1).mean(0)
    guess = biases / (lr * steps) + said
    true = torch.stack([torch.bincount(y, minlength=DIGITS) / len(y) for _, y in few.values()]).mean(0)
    return 100 * float((guess - true).abs().max())


class Signs(NamedTuple):
    """In which share of the values a mean tells the sign of every owner's update, and in which share of those the signs
    are as told; and the share of values in which the mean's sign is an owner's, at least."""

    certain: float
    right: float
    alike: float


def adam_signs(kind: str = "MLP, 16 wide", *, fitted: bool = True) -> Signs:
    """With Adam all values change by about as much, so that a mean in which one changed by that much is of owners whose
    signs are all the same."""
    here = setting(trained(kind) if fitted else first(kind), dealt(3))
    lr, steps = 1e-4, 8
    one = release(here, job(here, batch_size=32, steps=steps, optimizer=Adam(lr)))
    mean = one.parameters(one.mean)
    updates = torch.stack([one.parameters(each) for each in one.updates.values()])
    certain = mean.abs() > mean.abs().max() / 2
    agreed = (updates.sign() == mean.sign()).all(0)
    alike = (updates.sign() == mean.sign())[:, mean != 0].double().mean(1).min()
    return Signs(float(certain.double().mean()), float(agreed[certain].double().mean()), float(alike))
