"""Ways to read one row out of rounds, by models and plans that are made for it, and how near what is read comes to it.

Each finds the row less the usual one (the mean of all rows, which the attacker knows), times a number that it need not
know: it is told how far to trust what it found. So the error is 0 where the row is read, and 1 where guessing the usual
row does as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.aggregator.bodies import Update
from cloister.wire.fixed_point import UNITS, most_drawn
from cloister.wire.layout import Regions
from cloister.worker import flatten as deltas
from cloister.worker.data.poisson import draw
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import draw_key, simulated_salt
from cloister.worker.plans import Plan, PlannedLoss
from tests.attacks import sweep
from tests.attacks.noticing import CLIP, JOB, LR, ROWS, Noisy
from tests.attacks.sweep import Data

EXAMPLE: Final = (torch.zeros(4, 64), torch.zeros(4, dtype=torch.int64))
BINS: Final = 96

Tensors = Mapping[str, Tensor]


class Scheme(NamedTuple):
    """A plan and a model that owners were brought to sign, whose row of theirs is wanted, and where it is read."""

    plan: Plan
    model: nn.Module
    data: Data
    owner: str
    row: int
    read: Callable[[Tensors], tuple[Tensor, Tensor]]
    """What a unit's weights and its bias moved by: of one row, the row and 1, times a number."""
    colluders: tuple[str, ...] = ()
    """Owners who take what they sent away from what comes out."""

    @property
    def wanted(self) -> Tensor:
        return self.data[self.owner][0][self.row].double()


class Round(NamedTuple):
    """``seen`` is what the researcher works out of two models: the sum over all drawn records and the noise, in clips.
    ``sums`` is what each owner alone knows of it, and ``drawn`` which of its rows are in it."""

    seen: Tensor
    sums: Mapping[str, Tensor]
    drawn: Mapping[str, frozenset[int]]


def held(study: Noisy, scheme: Scheme, *, number: int = 1, seed: int = 0) -> Round:
    """A round of a study under such a scheme, as its owners and its aggregator compute it."""
    layout = deltas.layout_of(deltas.floats_of(scheme.model))
    weighing, owners = study.weighing(layout, seed=seed, number=number), study.sums_of(scheme.plan, scheme.model)
    weighing.begin()
    sums, drawn = {}, {}
    for name, (x, y) in scheme.data.items():
        key, most = draw_key(simulated_salt(seed, name), job=JOB, number=number), most_drawn(len(x) * study.rate)
        summed = owners.run(Arrays({"x": x, "y": y}), key=key, most_rows=most).sums
        weighing.add(name, study.answer(0.0), Update(summed.numpy(), salt=b"", regions=Regions(())))
        chosen = draw(len(x), rate=study.rate, key=key, most=most)
        sums[name], drawn[name] = -summed.double() / UNITS, frozenset(chosen.rows[chosen.drawn].tolist())
    return Round(torch.from_numpy(-weighing.mean() * ROWS / LR / CLIP), sums, drawn)


def errors(study: Noisy, scheme: Scheme, *, tries: int = 6) -> list[float]:
    """With so many secrets of the owners."""
    return [error(scheme, found) for found in lucky(study, scheme, tries=tries)]


def lucky(study: Noisy, scheme: Scheme, *, tries: int) -> Iterator[Tensor]:
    """What is seen of all rounds together, without what colluders sent. Of all secrets, these are such as have the row
    drawn in the first round."""
    for seed in itertools.count():
        rounds = [held(study, scheme, number=number, seed=seed) for number in range(1, study.rounds + 1)]
        if scheme.row in rounds[0].drawn[scheme.owner]:
            yield sum(each.seen - sum(each.sums[name] for name in scheme.colluders) for each in rounds)  # type: ignore[misc]
            tries -= 1
        if not tries:
            return


def error(scheme: Scheme, seen: Tensor) -> float:
    """How far what is read is from the row."""
    usual = torch.cat([x for x, _ in scheme.data.values()]).double().mean(0)
    weights, bias = moved(scheme, seen)
    cosine = sweep.cosine((weights - bias * usual) * bias.sign(), scheme.wanted - usual)
    return float((1 - max(0.0, cosine) ** 2) ** 0.5)


def moved(scheme: Scheme, seen: Tensor) -> tuple[Tensor, Tensor]:
    """What the scheme's unit has in it."""
    places = deltas.layout_of(deltas.floats_of(scheme.model)).places
    return scheme.read({place.name: seen[place.start : place.stop].view(place.spec.shape) for place in places})


# The schemes


@cloister.plan
def above(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Its gradient is the row, of those rows that the unit is active for."""
    found: Tensor = F.relu(model(x)).mean() + 0 * y.sum()
    return found


def one_unit(*, owner: str = "alice", colluders: tuple[str, ...] = ()) -> Scheme:
    """A unit that is active for one row of this owner's; and for none of any other's, unless these are colluders."""
    data = sweep.dealt(3, inputs="raw")
    others = torch.cat([x for name, (x, _) in data.items() if name != owner and name not in colluders] or [EXAMPLE[0]])
    for seed in range(1000):
        probe = _direction(seed)
        second, first = torch.sort(data[owner][0] @ probe).values[-2:]
        if float((others @ probe).max()) < first:
            break
    model, threshold = nn.Linear(64, 1), (max(second, (others @ probe).max()) + first) / 2
    _set(model, probe[None], -threshold[None])
    row = int((data[owner][0] @ probe).argmax())
    return Scheme(_captured(above, model), model, data, owner, row, lambda t: (t["weight"][0], t["bias"][0]), colluders)


def bins() -> Scheme:
    """Units with one direction and thresholds that rise: two neighbours differ by the rows between their thresholds.
    Fowl et al.: "Robbing the Fed", ICLR 2022."""
    data, probe = sweep.dealt(3, inputs="raw"), _direction(7)
    seen = torch.cat([x for x, _ in data.values()]) @ probe
    thresholds = torch.linspace(float(seen.min()) - 0.01, float(seen.max()) + 0.01, BINS)
    model = nn.Sequential(nn.Linear(64, BINS), nn.ReLU(), nn.Linear(BINS, sweep.DIGITS))
    _set(model[0], probe.repeat(BINS, 1), -thresholds)
    _set(model[2], _direction(8)[: sweep.DIGITS, None].repeat(1, BINS), torch.zeros(sweep.DIGITS))
    at = torch.bucketize(seen, thresholds) - 1
    row = int((at.bincount(minlength=BINS)[at] == 1).nonzero()[0])
    below = int(at[row])

    def read(tensors: Tensors) -> tuple[Tensor, Tensor]:
        weights, biases = tensors["0.weight"], tensors["0.bias"]
        return weights[below] - weights[below + 1], biases[below] - biases[below + 1]

    return Scheme(_captured(sweep.loss, model), model, data, *_whose(data, row), read)


def as_drawn() -> Scheme:
    """No scheme at all: a wide layer as PyTorch draws it has a unit that is active for one row alone."""
    data, model = sweep.dealt(3, inputs="raw"), sweep.first("MLP, 256 wide")
    active = model[0](torch.cat([x for x, _ in data.values()])) > 0  # type: ignore[index]
    unit = int((active.sum(0) == 1).nonzero()[0])
    row = int(active[:, unit].nonzero()[0])

    def read(tensors: Tensors) -> tuple[Tensor, Tensor]:
        return tensors["0.weight"][unit], tensors["0.bias"][unit]

    return Scheme(_captured(sweep.loss, model), model, data, *_whose(data, row), read)


def _direction(seed: int) -> Tensor:
    found = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    return found / found.norm()


@torch.no_grad()
def _set(layer: nn.Module, weights: Tensor, biases: Tensor) -> None:
    for tensor, values in zip(layer.parameters(), (weights, biases), strict=True):
        tensor.copy_(values)


def _captured(loss: PlannedLoss, model: nn.Module) -> Plan:
    return loss.capture(model, example=EXAMPLE)


def _whose(data: Data, row: int) -> tuple[str, int]:
    """The owner of a row of all, and which of its rows it is."""
    for name, (x, _) in data.items():
        if row < len(x):
            return name, row
        row -= len(x)
    raise IndexError(row)
