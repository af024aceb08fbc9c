"""Honest and hostile training steps, as people write them, captured as plans."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.testing.models import SAMPLES

Step = Callable[..., Any]


class Sample(NamedTuple):
    """A step with the model that it trains and a batch."""

    step: Step
    model: Callable[[], nn.Module]
    batch: tuple[Tensor, ...]


X: Final = torch.zeros(4, 6)
CLASSES: Final = torch.zeros(4, dtype=torch.long)
NUMBERS: Final = torch.zeros(4, 3)
IMAGES: Final = torch.zeros(4, 1, 8, 8)
TOKENS: Final = torch.zeros(4, 5, dtype=torch.long)
SERIES: Final = torch.zeros(4, 5, 4)
TABLE: Final = torch.arange(64.0)
HOT: Final = torch.eye(64)


def linear() -> nn.Module:
    return nn.Linear(6, 3)


def classes(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def counted(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    scores = model(x)
    right = scores.argmax(1) == y
    positive = right & (y == 1)
    return {
        "loss": F.nll_loss(F.log_softmax(scores, 1), y),
        "error": (~right).float().mean(),
        "recall": positive.sum() / (y == 1).sum().clamp(min=1),
    }


class Pooled(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(4, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Averaged(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def image_model(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.Flatten(), nn.Linear(width, 3))


def on_numbers(loss: Callable[..., Tensor], model: Callable[[], nn.Module] = linear) -> Sample:
    return Sample(lambda m, x, y: loss(m(x), y), model, (X, NUMBERS))


def on_classes(model: Callable[[], nn.Module], batch: Tensor = X, step: Step = classes) -> Sample:
    return Sample(step, model, (batch, CLASSES))


HONEST: Final[dict[str, Sample]] = {
    **{name: Sample(classes, sample.model, sample.batch(4)) for name, sample in SAMPLES.items()},
    "counts": on_classes(linear, step=counted),
    "mse": on_numbers(F.mse_loss),
    "l1": on_numbers(F.l1_loss),
    "huber": on_numbers(F.huber_loss),
    "smooth l1": on_numbers(F.smooth_l1_loss),
    "bce": on_numbers(F.binary_cross_entropy_with_logits),
    "bce of probabilities": on_numbers(lambda p, y: F.binary_cross_entropy(p.sigmoid(), y)),
    "hinge": on_numbers(lambda p, y: (1 - p * y).clamp(min=0).mean()),
    "larger of two": on_numbers(lambda p, y: torch.maximum(p, y).mean()),
    "norms": on_numbers(lambda p, y: (p - y).norm(dim=1).mean()),
    "sum": on_numbers(lambda p, y: ((p - y) ** 2).sum()),
    "standardised": on_numbers(lambda p, y: (((p - y) / y.std(0)) ** 2).mean()),
    "smoothed labels": on_classes(linear, step=lambda m, x, y: F.cross_entropy(m(x), y, label_smoothing=0.1)),
    "weights by class": on_classes(linear, step=lambda m, x, y: F.cross_entropy(m(x), y, weight=torch.ones(3))),
    "by index": on_classes(
        linear, step=lambda m, x, y: -F.log_softmax(m(x), 1)[torch.arange(len(x)), y].mean()
    ),
    "by gather": on_classes(linear, step=lambda m, x, y: -F.log_softmax(m(x), 1).gather(1, y[:, None]).mean()),
    "best score": on_classes(linear, step=lambda m, x, y: F.cross_entropy(m(x), y) - m(x).max(1).values.mean()),
    "dropout": on_classes(lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 3))),
    "units": on_classes(
        lambda: nn.Sequential(
            nn.Linear(6, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 4), nn.SiLU(), nn.LeakyReLU(), nn.ELU(),
            nn.Tanh(), nn.Softplus(), nn.ReLU6(), nn.PReLU(), nn.Hardswish(), nn.Linear(4, 3),
        )
    ),
    "group norm": on_classes(
        lambda: image_model(nn.GroupNorm(2, 4), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), width=16), IMAGES
    ),
    "batch norm": on_classes(lambda: image_model(nn.BatchNorm2d(4), nn.MaxPool2d(2), width=36), IMAGES),
    "layer norm": on_classes(lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3))),
    "evaluated": on_classes(lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)).eval()),
    "up and down": on_classes(
        lambda: image_model(nn.ConvTranspose2d(4, 2, 3, stride=2), nn.Upsample(scale_factor=2), width=1352), IMAGES
    ),
    "gru": on_classes(lambda: Pooled(nn.GRU), SERIES),
    "lstm on series": on_classes(lambda: Pooled(nn.LSTM), SERIES),
    "embedding": on_classes(lambda: Averaged(nn.Embedding(9, 4, padding_idx=0), 4), TOKENS),
    "encoder": on_classes(
        lambda: Averaged(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True), 4), SERIES
    ),
    "fixed layer": on_classes(lambda: nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, 3))),
}  # fmt: skip
"""What people train."""


def of(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Sample:
    """A hostile loss of the model's scores, the loss of each row, and the rows."""
    return Sample(lambda m, x, y: loss(m(x), F.cross_entropy(m(x), y, reduction="none"), x), linear, (X, CLASSES))


def metric(value: Callable[[Tensor], Tensor]) -> Sample:
    """A usual loss with a hostile metric of the rows."""
    return Sample(lambda m, x, y: {"loss": F.cross_entropy(m(x), y), "score": value(x)}, linear, (X, CLASSES))


class Indexed(nn.Module):
    """A model with an index among its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("which", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[self.which]


def written(scores: Tensor, each: Tensor, x: Tensor) -> Tensor:
    mask = torch.zeros_like(each)
    mask[0].fill_(1)
    return (each * mask).sum()


def mixed_up(scores: Tensor, each: Tensor, x: Tensor) -> Tensor:
    return scores.reshape(-1, len(x))[0].sum()


def detached(scores: Tensor, each: Tensor, x: Tensor) -> Tensor:
    return (each * each.detach()[0]).mean()


def asked(x: Tensor) -> Tensor:
    return (x[:, 0] > 2).float()


HOSTILE: Final[dict[str, tuple[Sample, str]]] = {
    "the first row": (of(lambda s, e, x: s[0].sum()), "PICK"),
    "the last row": (of(lambda s, e, x: s[-1:].sum()), "PICK"),
    "all but the first": (of(lambda s, e, x: e.sum() - e[1:].sum()), "PICK"),
    "transposed": (of(lambda s, e, x: s.t()[:, 0].sum()), "PICK"),
    "flat": (of(lambda s, e, x: s.flatten()[:3].sum()), "PICK"),
    "detached": (of(detached), "PICK"),
    "a row of indices": (of(lambda s, e, x: s[torch.zeros(1, dtype=torch.long)].sum()), "PICK"),
    "an index of a buffer": (Sample(lambda m, x, y: m(x).sum(), Indexed, (X, CLASSES)), "PICK"),
    "gathered": (of(lambda s, e, x: s.gather(0, torch.zeros(1, 3, dtype=torch.long)).sum()), "PICK"),
    "an entry": (metric(lambda x: x[0, 0]), "PICK"),
    "the largest": (of(lambda s, e, x: s.max(0).values.sum()), "RANK"),
    "the worst losses": (of(lambda s, e, x: e.topk(1).values.sum()), "RANK"),
    "sorted": (of(lambda s, e, x: e.sort().values[0]), "RANK"),
    "the median": (of(lambda s, e, x: e.median()), "RANK"),
    "the extreme": (metric(lambda x: x.amax()), "RANK"),
    "running totals": (of(lambda s, e, x: (e.cumsum(0) * e).sum()), "RUN"),
    "squares of running totals": (metric(lambda x: (x[:, 0].cumsum(0) ** 2).mean()), "RUN"),
    "weights by place": (of(lambda s, e, x: (e * TABLE[: len(e)]).sum()), "PLACE"),
    "compared places": (of(lambda s, e, x: (e * (torch.arange(len(e)) == 2)).sum()), "PLACE"),
    "counted ones": (of(lambda s, e, x: (e * (torch.ones(len(e)).cumsum(0) < 2)).sum()), "PLACE"),
    "one hot product": (of(lambda s, e, x: (HOT[:1, : len(e)] @ s).sum()), "PLACE"),
    "written places": (of(written), "PLACE"),
    "moved": (of(lambda s, e, x: (e * e.roll(1)).sum()), "PLACE"),
    "turned": (of(lambda s, e, x: (e - e.flip(0)).abs().sum()), "PLACE"),
    "padded away": (of(lambda s, e, x: F.pad(e, (-1, 0)).sum()), "PLACE"),
    "end to end": (of(lambda s, e, x: torch.cat([e, s.sum(0)]).mean()), "PLACE"),
    "only where": (of(lambda s, e, x: torch.where(x[:, 0] > 2, e, 0.0).mean()), "FILTER"),
    "times an answer": (of(lambda s, e, x: (e * asked(x)).sum()), "FILTER"),
    "a mask": (of(lambda s, e, x: e.masked_fill(x[:, 0] != 2, 0.0).sum()), "FILTER"),
    "a sign": (of(lambda s, e, x: (e * (torch.sign(x[:, 0] - 2) + 1)).sum()), "FILTER"),
    "cut to whole numbers": (of(lambda s, e, x: (e * (x[:, 0] / 9).long()).sum()), "FILTER"),
    "of one class": (of(lambda s, e, x: e @ asked(x)), "FILTER"),
    "looked up": (of(lambda s, e, x: (e * torch.arange(9.0)[x[:, 0].long()]).sum()), "FILTER"),
    "by chance": (of(lambda s, e, x: (e * (torch.rand(len(e)) < 0.01)).sum()), "FILTER"),
    "softly the largest": (of(lambda s, e, x: (e * torch.softmax(1e6 * x[:, 0], 0)).sum()), "OUTWEIGH"),
    "a sum of exponents": (of(lambda s, e, x: e.logsumexp(0)), "OUTWEIGH"),
    "a high norm": (of(lambda s, e, x: e.norm(p=50)), "OUTWEIGH"),
    "a product": (of(lambda s, e, x: e.prod()), "OUTWEIGH"),
    "a steep slope": (of(lambda s, e, x: (e * torch.sigmoid(1e6 * x[:, 0])).sum()), "STEEP"),
    "a steep tensor": (of(lambda s, e, x: (e * torch.sigmoid(x[:, 0] * torch.full((), 1e6))).sum()), "STEEP"),
    "a high power": (of(lambda s, e, x: (e**99).sum()), "STEEP"),
    "steep by division": (of(lambda s, e, x: (e * torch.sigmoid(x[:, 0] / 1e-6)).sum()), "STEEP"),
    "pairs": (of(lambda s, e, x: (s @ s.t()).sum()), "PAIRS"),
    "hardly any": (of(lambda s, e, x: F.dropout(e, 0.97).sum()), "THIN"),
    "mixed up": (Sample(lambda m, x, y: mixed_up(m(x), y, x), linear, (X, CLASSES)), "UNKNOWN"),
    "not known": (of(lambda s, e, x: torch.special.bessel_j0(e.detach()).mean() + e.mean()), "UNKNOWN"),
}
"""What nobody should train, each with the kind of concern that it must raise."""


@cache
def captured(name: str) -> cloister.Plan:
    """A sample as a plan, honest or hostile."""
    sample = HONEST[name] if name in HONEST else HOSTILE[name][0]
    torch.manual_seed(1)
    return cloister.plan(sample.step).capture(sample.model(), example=sample.batch)
