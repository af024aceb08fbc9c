"""A first model that is drawn: whether the charter's is what its recipe comes to.

An aggregator does not load this; owners each draw for themselves.
"""

from __future__ import annotations

import numpy as np

from cloister.aggregation.vectors import Vector
from cloister.charter.charter import Charter
from cloister.errors import JobError
from cloister.ledger.job import Job, Tensors
from cloister.models.drawing import draw
from cloister.wire.tensors import TensorSpec


def drawn_vector(charter: Charter, tensors: Tensors) -> Vector:
    """The values that the charter's recipe draws for a model's tensors: for those that are learned.

    Raises:
        JobError: they are other tensors than the recipe's.
    """
    wanted = {part.name: part.spec for part in tensors.parts}
    given = {entry.tensor: TensorSpec(entry.dtype, entry.shape) for entry in charter.recipe}
    differing = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if differing:
        raise JobError(
            "the job's model learns other tensors than the charter's recipe draws: they differ in"
            f" {', '.join(differing[:5])!a}"
        )
    drawn, layout = draw(charter.recipe, digest=charter.drawn_with), tensors.layout
    vector: Vector = np.empty(layout.length, layout.dtype)
    for place in layout.places:
        vector[place.start : place.stop] = drawn[place.name].ravel()
    return vector


def check_drawn(charter: Charter, job: Job) -> None:
    """Checks that the charter's first model is what its recipe draws, if it has one.

    Raises:
        JobError: it is another.
    """
    if not charter.recipe or job.start != charter.limits.first_model:
        return
    if job.tensors.name_of(drawn_vector(charter, job.tensors)) != charter.limits.first_model:
        raise JobError(
            "the charter's first model is not what its recipe draws: somebody chose its values, or the charter was"
            " changed after they were drawn"
        )
