"""Actors: a squashed Gaussian and a deterministic one.

Every actor ends in a tanh, so an action lies in the box by construction. Nothing is
clipped but the exploration noise of the deterministic actor, before it is stored.
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
    """A diagonal Gaussian before the tanh: its mean and std from one network.

    Attributes:
      obs_dim: D.
      action_dim: A.
      features: widths of the hidden layers.
      activation: of the hidden layers.
      init_std: std where the network says 0.
      min_std: least std.
      max_std: largest std.
      max_mean: bound of the mean, soft: `m tanh(x / m)`. Behind a tanh a mean far out
        moves no action, and all samples of it are the same action.
    """

    obs_dim: int
    action_dim: int
    features: tuple[int, ...]
    activation: str
    init_std: float = 1.0
    min_std: float = 1e-3
    max_std: float = 5.0
    max_mean: float = 4.0

    @property
    def _network(self) -> MLP:
        return MLP(self.features, 2 * self.action_dim, self.activation)

    def init(self, key: Array) -> PyTree:
        """Parameters of a network."""
        return self._network.init(key, jnp.zeros(self.obs_dim))["params"]

    def moments(self, params: PyTree, obs: Array) -> tuple[Array, Array]:
        """Mean and std `[..., A]` before the tanh for `obs` `[..., D]`."""
        head = self._network.apply({"params": params}, obs)
        assert isinstance(head, jax.Array)
        raw, pre_std = jnp.split(head, 2, axis=-1)
        mean = self.max_mean * jnp.tanh(raw / self.max_mean)
        # A softplus shifted so that 0 gives init_std.
        shift = jnp.log(jnp.expm1(self.init_std - self.min_std))
        std = jnp.minimum(nn.softplus(pre_std + shift) + self.min_std, self.max_std)
        return mean, std

    def distribution(self, params: PyTree, obs: Array) -> distrax.Transformed:
        """Of actions `[..., A]` in the box."""
        mean, std = self.moments(params, obs)
        normal = distrax.MultivariateNormalDiag(mean, std)
        return distrax.Transformed(normal, distrax.Block(distrax.Tanh(), 1))

    def mode(self, params: PyTree, obs: Array) -> Array:
        """The action of the mean."""
        return jnp.tanh(self.moments(params, obs)[0])


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
