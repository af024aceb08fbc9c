"""Five small models, one of each common family, with a batch for each: to test, measure and demonstrate with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Two layers. ``(batch, 20) -> (batch, 5)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.layers(x)  # type: ignore[no-any-return]


class LeNet(nn.Module):
    """LeCun et al. 1998, with max pooling and ReLU. ``(batch, 1, 28, 28) -> (batch, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """A basic block of He et al. 2015."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last ReLU."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A small residual network with batch normalisation (He et al. 2015). ``(batch, 3, 16, 16) -> (batch, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(_Residual(8, 8, 1), _Residual(8, 16, 2), _Residual(16, 16, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.blocks(self.stem(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class LSTMClassifier(nn.Module):
    """Embedding, a two-layer LSTM without an initial state, a linear head. ``(batch, time) of int64 -> (batch, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.lstm = nn.LSTM(12, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, from the last step's hidden state."""
        states, _ = self.lstm(self.embedding(x))
        return self.head(states[:, -1])  # type: ignore[no-any-return]


class TransformerClassifier(nn.Module):
    """Embedding with positions, a two-layer encoder (Vaswani et al. 2017), mean pooling. ``(batch, time) of int64 ->
    (batch, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.positions = nn.Embedding(32, 16)
        layer = nn.TransformerEncoderLayer(16, nhead=4, dim_feedforward=32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        positions = torch.arange(x.shape[1], device=x.device)
        states = self.encoder(self.embedding(x) + self.positions(positions))
        return self.head(states.mean(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sample:
    """A model and how to make a batch for it."""

    model: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    classes: int

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels, drawn from PyTorch's default generator."""
        return self.inputs(size), torch.randint(self.classes, (size,))


def _tokens(size: int) -> Tensor:
    return torch.randint(50, (size, 9))


SAMPLES: Final[dict[str, Sample]] = {
    "mlp": Sample(MLP, lambda size: torch.randn(size, 20), 5),
    "lenet": Sample(LeNet, lambda size: torch.randn(size, 1, 28, 28), 10),
    "resnet": Sample(ResNet, lambda size: torch.randn(size, 3, 16, 16), 10),
    "lstm": Sample(LSTMClassifier, _tokens, 4),
    "transformer": Sample(TransformerClassifier, _tokens, 4),
}
"""The five, by name."""
