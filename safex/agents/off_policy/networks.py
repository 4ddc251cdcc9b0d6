"""Actors: a Gaussian behind a tanh, one cut off at the box, and a deterministic one.

Every action lies in the box before it is stored, so no critic learns outside of it.
"""

import dataclasses

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from safex.models.networks import MLP
from safex.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class GaussianActor:
    """A diagonal Gaussian: its mean and std from one network.

    Attributes:
      obs_dim: D.
      action_dim: A.
      features: widths of the hidden layers.
      activation: of the hidden layers.
      max_mean: bound of the mean, soft: `m tanh(x / m)`.
      init_std: std where the network says 0.
      min_std: least std.
      max_std: largest std.
    """

    obs_dim: int
    action_dim: int
    features: tuple[int, ...]
    activation: str
    max_mean: float
    init_std: float = 1.0
    min_std: float = 1e-3
    max_std: float = 5.0

    @property
    def _network(self) -> MLP:
        return MLP(self.features, 2 * self.action_dim, self.activation)

    def init(self, key: Array) -> PyTree:
        """Parameters of a network."""
        return self._network.init(key, jnp.zeros(self.obs_dim))["params"]

    def moments(self, params: PyTree, obs: Array) -> tuple[Array, Array]:
        """Mean and std `[..., A]` of the Gaussian for `obs` `[..., D]`."""
        head = self._network.apply({"params": params}, obs)
        assert isinstance(head, jax.Array)
        raw, pre_std = jnp.split(head, 2, axis=-1)
        mean = self.max_mean * jnp.tanh(raw / self.max_mean)
        # A softplus shifted so that 0 gives init_std.
        shift = jnp.log(jnp.expm1(self.init_std - self.min_std))
        std = jnp.minimum(nn.softplus(pre_std + shift) + self.min_std, self.max_std)
        return mean, std


@dataclasses.dataclass(frozen=True)
class SquashedActor(GaussianActor):
    """A Gaussian behind a tanh, whose actions have a density.

    Behind a tanh a mean far out moves no action, and all samples of it are the same.
    """

    max_mean: float = 4.0

    def distribution(self, params: PyTree, obs: Array) -> distrax.Transformed:
        """Of actions `[..., A]` in the box."""
        normal = distrax.MultivariateNormalDiag(*self.moments(params, obs))
        return distrax.Transformed(normal, distrax.Block(distrax.Tanh(), 1))

    def mode(self, params: PyTree, obs: Array) -> Array:
        """The action of the mean."""
        return jnp.tanh(self.moments(params, obs)[0])


@dataclasses.dataclass(frozen=True)
class ClippedActor(GaussianActor):
    """A Gaussian on the scale of actions, cut off at the box.

    A std is the same noise wherever the mean is. The mean may lie a little beyond the
    box, where its action is the limit and a gradient still leads back.
    """

    max_mean: float = 1.1

    def sample(self, key: Array, params: PyTree, obs: Array) -> Array:
        """An action `[..., A]` in the box for `obs` `[..., D]`."""
        mean, std = self.moments(params, obs)
        return in_box(mean + std * jax.random.normal(key, mean.shape))

    def mode(self, params: PyTree, obs: Array) -> Array:
        """The action of the mean."""
        return in_box(self.moments(params, obs)[0])


def in_box(action: Array) -> Array:
    """The nearest action within `[-1, 1]`."""
    return jnp.clip(action, -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class DeterministicActor:
    """One action an observation.

    Attributes:
      obs_dim: D.
      action_dim: A.
      features: widths of the hidden layers.
      activation: of the hidden layers.
    """

    obs_dim: int
    action_dim: int
    features: tuple[int, ...]
    activation: str

    @property
    def _network(self) -> MLP:
        return MLP(self.features, self.action_dim, self.activation)

    def init(self, key: Array) -> PyTree:
        """Parameters of a network."""
        return self._network.init(key, jnp.zeros(self.obs_dim))["params"]

    def action(self, params: PyTree, obs: Array) -> Array:
        """The action `[..., A]` for `obs` `[..., D]`."""
        head = self._network.apply({"params": params}, obs)
        assert isinstance(head, jax.Array)
        return jnp.tanh(head)
