"""Models without traps: as PyTorch and its users first fill them, and after some hundred steps of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 48), nn.ReLU(), nn.Linear(48, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """A block that begins as the identity."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(size, size, 3, padding=1), nn.Conv2d(size, size, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(size), nn.BatchNorm2d(size)])
        nn.init.zeros_(self.norms[1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norms[1](self.second(F.relu(self.norms[0](self.first(x))))))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), Residual(24), Residual(24),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def mobile() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 64, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


class Recurrent(nn.Module):
    """Digits read row by row."""

    def __init__(self, kind: type[nn.RNNBase], *, forget: float | None = None) -> None:
        super().__init__()
        self.cells, self.head = kind(8, 48, num_layers=2, batch_first=True), nn.Linear(48, 10)
        if forget is not None:
            for name, bias in self.cells.named_parameters():
                if "bias_ih" in name:
                    nn.init.zeros_(bias)
                    nn.init.constant_(bias[48:96], forget)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x.view(-1, 8, 8))[0][:, -1])


class Words(nn.Module):
    """Digits as texts of 64 words of 17."""

    def __init__(self, *, attention: bool, padding: int | None = None, std: float = 1.0) -> None:
        super().__init__()
        self.words = nn.Embedding(17, 32, padding_idx=padding)
        nn.init.normal_(self.words.weight, std=std)
        self.places = nn.Parameter(0.02 * torch.randn(64, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.body: nn.Module = (
            nn.TransformerEncoder(layer, 2)
            if attention
            else nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = self.words((x * 16).round().long().view(-1, 64)) + self.places
        return self.head(self.body(words).mean(1))


class LoRA(nn.Module):
    """A frozen layer with a learned change of low rank, which begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 64)
        self.lora_a, self.lora_b = nn.Linear(64, 8, bias=False), nn.Linear(8, 64, bias=False)
        nn.init.zeros_(self.lora_b.weight)
        self.head = nn.Linear(64, 10)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.frozen(x) + self.lora_b(self.lora_a(x))))


class Autoencoder(nn.Module):
    """With a narrow middle, and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.Flatten(), nn.Linear(128, 2)
        )
        self.up = nn.Sequential(
            nn.Linear(2, 128),
            nn.Unflatten(1, (32, 2, 2)),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
        )
        self.head = nn.Linear(2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.down(x))


class Mixed(nn.Module):
    """LayerNorm before everything, a last layer of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 10))
        nn.init.zeros_(self.parts[4].weight)
        nn.init.zeros_(self.parts[4].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts(x.flatten(1))


def filled(model: nn.Module, weight: Callable[[torch.Tensor], Any], bias: float | None = 0.0) -> nn.Module:
    """The model with other first weights, and biases that are all one number."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight(module.weight)
            if module.bias is not None and bias is not None:
                nn.init.constant_(module.bias, bias)
    return model


def zero_head(model: nn.Module) -> nn.Module:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return model


def class_priors(model: nn.Module) -> nn.Module:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(torch.log(torch.tensor([0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.04, 0.03, 0.02, 0.01])))
    return model


FIRST: Final[dict[str, Callable[[], nn.Module]]] = {
    "MLP": mlp,
    "CNN": cnn,
    "ResNet with zero gamma": resnet,
    "depthwise": mobile,
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "LSTM with a forget bias": lambda: Recurrent(nn.LSTM, forget=1.0),
    "GRU": lambda: Recurrent(nn.GRU),
    "embedding": lambda: Words(attention=False),
    "embedding with padding": lambda: Words(attention=False, padding=0),
    "transformer": lambda: Words(attention=True),
    "transformer, small": lambda: Words(attention=True, std=0.02),
    "LoRA": LoRA,
    "autoencoder": Autoencoder,
    "LayerNorm and a zero head": Mixed,
    "zero head": lambda: zero_head(mlp()),
    "class priors": lambda: class_priors(mlp()),
    "class priors on zeros": lambda: class_priors(zero_head(mlp())),
    "logistic regression": lambda: nn.Linear(64, 10),
    "logistic regression from zero": lambda: zero_head(nn.Linear(64, 10)),
    "linear regression": lambda: nn.Linear(64, 1),
    "Kaiming uniform": lambda: filled(mlp(), nn.init.kaiming_uniform_),
    "Kaiming normal": lambda: filled(cnn(), lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out")),
    "Xavier uniform": lambda: filled(mlp(), nn.init.xavier_uniform_),
    "Xavier normal": lambda: filled(cnn(), nn.init.xavier_normal_),
    "orthogonal": lambda: filled(mlp(), lambda weight: nn.init.orthogonal_(weight, math.sqrt(2))),
    "truncated normal": lambda: filled(
        Words(attention=True, std=0.02), lambda weight: nn.init.trunc_normal_(weight, std=0.02)
    ),
    "constant bias": lambda: filled(mlp(), nn.init.kaiming_uniform_, bias=0.1),
    "small bias": lambda: filled(cnn(), nn.init.kaiming_normal_, bias=0.01),
    "float64": lambda: mlp().double(),
    "PReLU and GroupNorm": lambda: nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.GroupNorm(4, 32), nn.PReLU(32), nn.Flatten(), nn.LazyLinear(10)
    ),
}


def batch(size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of eight by eight: a smooth one for each of ten classes and noise, with a border that is always zero."""
    classes = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(10, (size,), generator=generator)
    pictures = F.interpolate(classes[labels], size=6, mode="bilinear") + 0.3 * torch.randn(
        size, 1, 6, 6, generator=generator
    )
    return F.pad(pictures.sigmoid(), (1, 1, 1, 1)), labels


def trained(model: nn.Module, *, steps: int, optimizer: str, seed: int) -> nn.Module:
    """The model after so many steps on pictures."""
    generator = torch.Generator().manual_seed(seed)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = {"sgd": 0.1, "adam": 0.003}[optimizer]
    update: torch.optim.Optimizer = (
        torch.optim.SGD(learned, lr=rate, momentum=0.9) if optimizer == "sgd" else torch.optim.Adam(learned, lr=rate)
    )
    kind = next(model.parameters()).dtype
    for _ in range(steps):
        pictures, labels = batch(32, generator)
        flat = isinstance(next(model.modules()), nn.Linear) or isinstance(next(iter(model.children()), None), nn.Linear)
        output = model((pictures.flatten(1) if flat else pictures).to(kind))
        loss = F.cross_entropy(output, labels) if output.shape[1] > 1 else (output[:, 0] - labels).square().mean()
        update.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        update.step()
    return model


def values_of(model: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
