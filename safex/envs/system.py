"""What all systems share: how they are built, and cost and sensors derived from them.

A system says its equations, its `reward` and its `margin`; the cost is 1 where a margin
is above zero, here and nowhere else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import struct

from safex.config import changed
from safex.types import Array, Step


class System(struct.PyTreeNode):
    """A pure JAX system: a pytree of its parameters with pure methods.

    Attributes:
      params: physical and task parameters, with at least `dt` [s] and
        `observation_noise_std`.
      max_steps: time limit of an episode [steps].
      config_class: the dataclass it is built from.
      params_class: the pytree of its parameters; each is a field of the config too.
      action_dim: A.
      state_names: fields of its state that an episode can be made to begin at.
      limit_names: what each of its C constraints is about.
      limit_units: the unit of each.
      angle_names: those of `state_names` that wrap at ±pi.
      portrait: the two of `state_names` that tell most in a phase portrait.
      portrait_labels: what its two axes say; the names and their units if empty.
    """

    params: Any
    max_steps: int = struct.field(pytree_node=False, default=200)

    config_class: ClassVar[Any]
    params_class: ClassVar[Any]
    action_dim: ClassVar[int]
    state_names: ClassVar[tuple[str, ...]]
    limit_names: ClassVar[tuple[str, ...]]
    limit_units: ClassVar[tuple[str, ...]]
    angle_names: ClassVar[tuple[str, ...]] = ()
    portrait: ClassVar[tuple[str, str]]
    portrait_labels: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_config(cls, config: Any = None, **changes: Any) -> Self:
        """Builds the system.

        Args:
          config: an instance of `config_class`; the defaults when None.
          **changes: fields of it to replace.

        Raises:
          TypeError: a field is unknown.
          ValueError: a value is impossible.
        """
        config = cls.config_class() if config is None else config
        return cls._built(changed(config, changes))

    @classmethod
    def _built(cls, config: Any, **derived: Any) -> Self:
        """The system of a config; `derived` parameters are no fields of it."""
        fields = {field.name: field for field in dataclasses.fields(config)}
        params = {
            name: jnp.asarray(value, jnp.float32) for name, value in derived.items()
        }
        for field in dataclasses.fields(cls.params_class):
            if field.name in derived:
                continue
            value = getattr(config, field.name)
            # Cast, since a YAML's `mass: 1` would else be an integer with no gradient.
            whole = fields[field.name].type is int
            params[field.name] = jnp.asarray(value, jnp.int32 if whole else jnp.float32)
        static = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(cls)
            if field.name in fields
        }
        return cls(params=cls.params_class(**params), **static)

    @property
    def num_constraints(self) -> int:
        """C."""
        return len(self.limit_names)

    def cost(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[C]`: 1 where the next observation is past a limit, else 0."""
        margin: Array = self.margin(obs, action, next_obs)  # type: ignore[attr-defined]
        return (margin > 0).astype(jnp.float32)

    def _outcome(
        self,
        key: Array,
        state: Any,
        action: Array,
        next_state: Any,
        terminated: Array | None = None,
    ) -> Step:
        """What a step to `next_state` returns; only `obs` has the sensors' noise."""
        observe: Callable[[Any], Array] = self.observe  # type: ignore[attr-defined]
        triple = observe(state), action, observe(next_state)
        return Step(
            state=next_state,
            obs=self._measure(key, next_state),
            reward=self.reward(*triple),  # type: ignore[attr-defined]
            cost=self.cost(*triple),
            terminated=jnp.zeros((), bool) if terminated is None else terminated,
            truncated=next_state.t >= self.max_steps,
        )

    def _measure(self, key: Array, state: Any) -> Array:
        """What the sensors say of a state, `[D]`."""
        obs: Array = self.observe(state)  # type: ignore[attr-defined]
        noise = jax.random.normal(key, obs.shape)
        return obs + self.params.observation_noise_std * noise
