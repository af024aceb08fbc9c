"""A first model that nobody chose: drawn by a recipe that stands in the charter."""

from __future__ import annotations

import os

from torch import nn

from cloister.charter.toml import parse_charter
from cloister.errors import ConfigurationError
from cloister.models import recipe_toml as toml
from cloister.models.drawing import draw
from cloister.net.files import read_charter_text
from cloister.tensor.held import copied
from cloister.tensor.plan.learned import learned
from cloister.worker.initialising import load_drawn, recipe_of
from cloister.worker.plans import Plan, check_plan


def recipe_toml(model: nn.Module, plan: Plan, *, home_buffers: bool = False) -> str:
    """PyTorch's own initialisation of a model's layers as ``[[first_model]]`` tables for charter.toml: of what the plan
    learns. ``home_buffers``: as in the charter's limits.

    Raises:
        ConfigurationError: a layer that is not known; the message names it.
    """
    check_plan(plan)
    found = learned(plan.program)
    return toml.text(recipe_of(model, learned={*found.parameters, *(() if home_buffers else found.buffers)}))


def draw_first_model(model: nn.Module, charter: str | os.PathLike[str]) -> nn.Module:
    """A copy of the model, with what is learned of it as the charter's recipe draws it; ``cloister.model_digest`` of it
    is the charter's ``first_model``. The values depend on everything else in the charter: write the digest down last.
    Until then the charter may lack it.

    Raises:
        CharterError: the file has other faults than a missing digest. ConfigurationError: it has no recipe, or one for
            other tensors.
    """
    agreed = parse_charter(read_charter_text(charter), source=str(charter), to_draw=True)
    if not agreed.recipe:
        raise ConfigurationError("the charter has no recipe to draw a model from: write [[first_model]] tables")
    drawn = copied(model)
    load_drawn(draw(agreed.recipe, digest=agreed.drawn_with), drawn)
    return drawn
