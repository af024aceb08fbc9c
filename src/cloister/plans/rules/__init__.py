"""What is known of each operation: how its results follow the rows of its arguments.

A rule stands here only if it is known for every argument that the table of operations admits. An operation without
one, or that a rule does not see through, is *not understood*, and so is everything that is made of its results.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cloister.plans.calls import Rule
from cloister.plans.rules import elementwise, layers, making, picking, products, reducing, shaping

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **elementwise.RULES,
        **shaping.RULES,
        **reducing.RULES,
        **picking.RULES,
        **products.RULES,
        **layers.RULES,
        **making.RULES,
    }
)
"""The rules, by the operations' names without overload and without the underscore of what works in place."""
