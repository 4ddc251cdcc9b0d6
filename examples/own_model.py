"""A model of one's own: Bayesian linear regression on random Fourier features.

    python examples/own_model.py

Only what learns is here: which rows it is given, and how far its stds can be trusted
(calibration, new inputs), is decided by `CalibratedModel`, as for every other model.
Rahimi and Recht 2007; the posterior is that of the Bayesian last layer.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig
from safex.envs.pendulum import Pendulum
from safex.models.calibrated import CalibratedModel
from safex.models.last_layer import Posterior, weight_posterior
from safex.models.normalizer import Normalizer, identity_normalizer
from safex.models.training import Split, normalized
from safex.training.honesty import random_path
from safex.types import Array, Dataset, Metrics, Prediction, PyTree


class FourierState(NamedTuple):
    """Frequencies `[D + A, F]`, weights of each output, normalizers of both sides."""

    frequencies: Array
    posterior: Posterior
    inputs: Normalizer
    targets: Normalizer


@dataclasses.dataclass(frozen=True)
class FourierRegression:
    """`y = w^T (cos(W x), sin(W x))`, W drawn once; noise of `noise_std` of y."""

    obs_dim: int
    action_dim: int
    num_features: int = 100
    lengthscale: float = 3.0
    noise_std: float = 0.02
    num_members: int = 0

    def init(self, key: Array) -> FourierState:
        """Knows nothing: the weights have their prior."""
        inputs, size = self.obs_dim + self.action_dim, 2 * self.num_features
        frequencies = jax.random.normal(key, (inputs, self.num_features))
        one = Posterior(jnp.zeros(size), jnp.eye(size), jnp.ones(()))
        posterior = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.obs_dim), one)
        unit = identity_normalizer(inputs), identity_normalizer(self.obs_dim)
        return FourierState(frequencies / self.lengthscale, posterior, *unit)

    def train(
        self, key: Array, state: FourierState, data: Dataset, split: Split
    ) -> tuple[FourierState, Metrics]:
        """The exact posterior, in one step."""
        inputs, targets, x, y = normalized(data, split.train)
        weight = split.train / self.noise_std**2
        phi = self._features(state.frequencies, x)
        fit = jax.vmap(weight_posterior, (None, 1, None, None))
        posterior = fit(phi, y, weight, 10)
        return FourierState(state.frequencies, posterior, inputs, targets), {}

    def moments(self, state: FourierState, obs: Array, action: Array) -> Prediction:
        """Mean and both stds of the next observation."""
        x = state.inputs.normalize(jnp.concatenate([obs, action]))
        phi = self._features(state.frequencies, x)
        std = jnp.linalg.norm(phi @ state.posterior.root, axis=-1)
        change = state.targets.denormalize(state.posterior.mean @ phi)
        unit = state.targets.std
        return Prediction(obs + change, unit * std, unit * self.noise_std)

    def _features(self, frequencies: Array, x: Array) -> Array:
        angle = x @ frequencies
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def main() -> tuple[CalibratedModel, PyTree, Metrics]:
    """Learns the pendulum from 400 random steps: model, state, what the fit says."""
    env = Pendulum.from_config()
    model = CalibratedModel(FourierRegression(3, 1), CalibrationConfig())
    keys = jax.random.split(jax.random.key(0), 4)
    data = Dataset(random_path(keys[1], env, *env.reset(keys[0]), 400), jnp.int32(400))
    return model, *jax.jit(model.fit)(keys[3], model.init(keys[2]), data)


if __name__ == "__main__":
    print(main()[2])
