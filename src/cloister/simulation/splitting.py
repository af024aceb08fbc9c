"""One data set dealt out to many owners, unequally, for experiments. Real owners bring their own.

Each function takes the labels of a data set, one for each example, and gives each owner's examples as an array of
indices, ascending. Every example goes to exactly one owner. The same seed gives the same split (with the same NumPy:
the streams of its distributions may change from version to version).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloister.errors import ConfigurationError


def split_dirichlet(
    labels: ArrayLike, *, owners: int, alpha: float, seed: int, smallest: int = 1
) -> list[NDArray[np.int64]]:
    """Owners of equal sizes whose mixture of labels differs: Hsu, Qi and Brown (2019), section 3.

    Each owner's mixture q is drawn from Dir(alpha * p), where p is the mixture of the whole data set: a large ``alpha``
    makes owners alike, one near 0 leaves each with a single label. Its examples are drawn from q without replacement;
    when a label is used up, q is renormalised over those that are left. Sizes differ by at most 1.

    "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", arXiv:1909.06335.

    Raises:
        ConfigurationError: labels that are not one-dimensional, an ``alpha`` that is not positive, or too few examples
            for each owner to have ``smallest``.
    """
    values = _labels(labels, owners, smallest)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigurationError(f"alpha is {alpha}; it is a positive number")
    generator = np.random.default_rng(seed)
    stacks = [generator.permutation(np.flatnonzero(values == label)) for label in range(values.max() + 1)]
    left = np.array([len(stack) for stack in stacks])
    prior = left / left.sum()
    split = []
    for size in _sizes(len(values), owners):
        mixture = generator.dirichlet(np.maximum(alpha * prior, np.finfo(float).tiny))
        taken = _draw(mixture, size, left, generator)
        split.append(np.concatenate([stack[n - k : n] for stack, n, k in zip(stacks, left, taken, strict=True)]))
        left = left - taken
    return [np.sort(indices) for indices in split]


def split_by_label(
    labels: ArrayLike, *, owners: int, labels_each: int, seed: int, smallest: int = 1
) -> list[NDArray[np.int64]]:
    """Owners that know few labels: the "pathological non-IID" split of McMahan et al. (2017), section 3.

    The examples are sorted by label and cut into ``owners * labels_each`` shards of equal size (within 1); each owner
    gets ``labels_each`` of them at random. A shard that reaches over the border between two labels holds both, so that
    an owner may know a label or two more.

    "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, arXiv:1602.05629.

    Raises:
        ConfigurationError: labels that are not one-dimensional, or too few examples for each owner to have
            ``smallest``, or for each shard to have one.
    """
    if labels_each < 1:
        raise ConfigurationError(f"labels_each is {labels_each}; it is at least 1")
    values = _labels(labels, owners, max(smallest, labels_each))
    generator = np.random.default_rng(seed)
    mixed = generator.permutation(len(values))  # so that it does not matter how the file is sorted within a label
    shards = np.array_split(mixed[np.argsort(values[mixed], kind="stable")], owners * labels_each)
    hands = generator.permutation(len(shards)).reshape(owners, labels_each)
    split = [np.sort(np.concatenate([shards[shard] for shard in hand])) for hand in hands]
    if min(map(len, split)) < smallest:
        raise ConfigurationError(
            f"an owner would have fewer than {smallest} examples; take fewer owners or labels_each"
        )
    return split


def _draw(
    mixture: NDArray[np.float64], size: int, left: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """The number of examples of each label: ``size`` draws from ``mixture``, of no label more than are left.

    A draw of a label that is used up is repeated among the others, which is to renormalise.
    """
    taken = np.zeros_like(left)
    while (missing := size - int(taken.sum())) > 0:
        weights = np.where(taken < left, mixture, 0.0)
        if not weights.sum() > 0:  # it has nothing to say about the labels that are left
            weights = (left - taken).astype(float)
        taken = np.minimum(taken + generator.multinomial(missing, weights / weights.sum()), left)
    return taken


def _labels(labels: ArrayLike, owners: int, smallest: int) -> NDArray[np.int64]:
    """The labels, numbered from 0 in their order."""
    values: NDArray[Any] = np.asarray(labels)
    if values.ndim != 1 or not len(values):
        raise ConfigurationError(f"labels of shape {values.shape}; give one label for each example")
    if owners < 1 or len(values) < owners * max(1, smallest):
        raise ConfigurationError(
            f"{len(values)} examples are too few for {owners} owners with at least {max(1, smallest)} each"
        )
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _sizes(examples: int, owners: int) -> list[int]:
    size, more = divmod(examples, owners)
    return [size + (owner < more) for owner in range(owners)]
