"""No constraint: what an agent does that looks at the reward alone."""

import dataclasses

import jax.numpy as jnp

from safex.constraints.rule import Rule
from safex.types import Array, PyTree, Score


@dataclasses.dataclass(frozen=True)
class Unconstrained(Rule):
    """Orders by value alone; everything is allowed."""

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """The value."""
        del state, threshold
        return score.value

    def feasible(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Always true."""
        del state, threshold
        return jnp.ones_like(score.value, bool)
