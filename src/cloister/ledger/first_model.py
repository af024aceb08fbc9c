"""A first model that is drawn: whether the charter's is what its recipe comes to.

An aggregator does not load this; owners each draw for themselves.
"""

from __future__ import annotations

import numpy as np

from cloister.aggregation.vectors import Vector
from cloister.charter.charter import Charter
from cloister.errors import JobError
from cloister.ledger.job import Job, describe
from cloister.models.drawing import draw
from cloister.wire.tensors import TensorSpec


def drawn_vector(charter: Charter, job: Job) -> Vector:
    """The values that the charter's recipe draws for the tensors of a job.

    Raises:
        JobError: they are other tensors than the recipe's.
    """
    wanted = {part.name: part.spec for part in job.parts}
    given = {entry.tensor: TensorSpec(entry.dtype, entry.shape) for entry in charter.recipe}
    differing = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if differing:
        raise JobError(
            f"the job's model has other tensors than the charter's recipe: they differ in {', '.join(differing[:5])!a}"
        )
    tensors, layout = draw(charter.recipe, digest=charter.drawn_with), job.layout
    vector: Vector = np.empty(layout.length, layout.dtype)
    for place in layout.places:
        vector[place.start : place.stop] = tensors[place.name].ravel()
    return vector


def check_drawn(charter: Charter, job: Job) -> None:
    """Checks that the charter's first model is what its recipe draws, if it has one.

    Raises:
        JobError: it is another.
    """
    if not charter.recipe or job.start != charter.limits.first_model:
        return
    if describe(job.parts, job.constants, drawn_vector(charter, job)) != charter.limits.first_model:
        raise JobError(
            "the charter's first model is not what its recipe draws: somebody chose its values, or the charter was"
            " changed after they were drawn"
        )
