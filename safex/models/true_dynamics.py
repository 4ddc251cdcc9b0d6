"""The true system as a model: the oracle every learned model is measured against."""

import dataclasses

import jax.numpy as jnp

from safex.types import Array, Dataset, Environment, Metrics, Prediction


# Hashed by identity: the arrays of an environment have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class TrueDynamics:
    """Knows the noise-free dynamics exactly and learns nothing.

    The state is the environment itself, a pytree of physical parameters, so that
    parameters can be batched or differentiated.

    Attributes:
      env: the system to be predicted.
    """

    env: Environment

    @property
    def num_members(self) -> int:
        """No members."""
        return 0

    def init(self, key: Array) -> Environment:
        """Returns the system."""
        del key
        return self.env

    def fit(
        self, key: Array, state: Environment, data: Dataset
    ) -> tuple[Environment, Metrics]:
        """Changes nothing."""
        del key, data
        return state, {}

    def predict(self, state: Environment, obs: Array, action: Array) -> Prediction:
        """The true next observation, epistemic std zero."""
        mean = state.dynamics(obs, action)
        return Prediction(mean, jnp.zeros_like(mean), state.noise_std)

    def test_rows(self, data: Dataset) -> Array:
        """None: what is known for certain has no coverage to measure."""
        return jnp.zeros(data.transitions.reward.shape, bool)

    def members(self, state: Environment, obs: Array, action: Array) -> Prediction:
        """There are none to ask."""
        raise ValueError("the true dynamics have no members")

    def select(self, state: Environment, index: Array) -> Environment:
        """There are none to select."""
        raise ValueError("the true dynamics have no members")

    def member(
        self, state: Environment, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """The same as `predict`: every sample of a known function is that function."""
        del index
        return self.predict(state, obs, action)
