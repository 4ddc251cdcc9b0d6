"""No constraint: what an agent does that looks at the reward alone."""

import dataclasses

import jax.numpy as jnp

from safex.constraints.rule import Rule
from safex.types import Array, PyTree, Score


@dataclasses.dataclass(frozen=True)
class Unconstrained(Rule):
    """Orders by value alone; everything is allowed."""

    def order(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Largest value first."""
        del state, threshold
        return jnp.argsort(-score.value)

    def feasible(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Always true."""
        del state, threshold
        return jnp.ones_like(score.value, bool)
