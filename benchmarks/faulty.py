"""A pendulum whose sensor fails now and then, for `faults.py`."""

import os

import jax
import jax.numpy as jnp

from safex.envs.pendulum import Pendulum
from safex.types import Array, Step

# Chance that a step's observation is NaN; 0 without the variable.
VARIABLE = "SAFEX_FAULTS_NAN"


class FaultyPendulum(Pendulum):
    """The pendulum; what its environment variable says is no setting of the run."""

    def step(self, key: Array, state: tuple, action: Array) -> Step:
        """Advances one step; the sensor may fail."""
        result = super().step(key, state, action)  # type: ignore[arg-type]
        chance = float(os.environ.get(VARIABLE, "0"))
        if not chance:
            return result
        fails = jax.random.uniform(jax.random.fold_in(key, 7)) < chance
        return result._replace(obs=jnp.where(fails, jnp.nan, result.obs))
