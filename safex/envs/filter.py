"""A predictive safety filter around any gymnasium environment.

Whatever proposes an action (a person, a learner that knows nothing of costs), the
filter asks an agent's model what could happen at worst if it were executed and the
backup policy acted from then on. Only if that keeps the episode's budget is the action
passed through (Wabersich and Zeilinger 2021, A predictive safety filter for
learning-based control of constrained nonlinear dynamical systems, arXiv 1812.05506,
with the backup policy in place of an optimised backup plan).
"""

from typing import Any, Protocol

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from safex.errors import ConfigError, ContractError, NonFiniteError
from safex.types import Array, Environment, PyTree, Transition


class Watcher(Protocol):
    """What the filter asks of an agent; `MPCAgent` is one."""

    @property
    def env(self) -> Environment:
        """The system it knows, with its backup."""
        ...

    def begin_episode(self, key: Array, state: PyTree) -> PyTree:
        """Forgets what the last episode has spent."""
        ...

    def overspends(self, state: PyTree, obs: Array, action: Array) -> Array:
        """`[]` bool: after this action the backup might break the budget."""
        ...

    def observe(self, state: PyTree, transition: Transition) -> PyTree:
        """Takes note of what an action cost."""
        ...


class SafetyFilter(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Overrides an action after which the backup might not keep the budget.

    An action `a` of `obs` is passed through if `spent + J(obs, a) <= cost_budget`, `J`
    the pessimistic cost of `a` and then the backup policy over `H + K` steps
    (`MPCAgent.switch_cost`). Else it is moved towards the backup's action, no further
    than needed among `num_blends` equal parts of the way; the last of them, the
    backup's own action, is taken if no other is admitted.

    If the model is right within the agent's confidence, the start is safe and `H + K`
    steps are enough to come to rest, no episode costs more than its budget, for the
    backup that was found a step before goes on being one.

    `step` adds to the info `override` (bool, whether another action was executed),
    `overrides` (their number in this episode), `action` `[A]` (what was executed) and
    `admitted` (bool, false where even the backup was not found to keep the budget).

    Attributes:
      agent: whose model, widths, budget and backup are used.
      agent_state: its state. May be replaced at any time by one that has learned more.
      overrides: how many steps of this episode were overridden.
    """

    def __init__(
        self,
        env: gymnasium.Env[np.ndarray, np.ndarray],
        agent: Watcher,
        agent_state: PyTree,
        *,
        num_blends: int = 4,
    ) -> None:
        """Wraps an environment whose observations and actions are the agent's.

        Args:
          env: actions in [-1, 1]; its infos tell the costs as those of `JaxEnv` do.
          agent: an agent with a model, such as `MPCAgent`.
          agent_state: its state, which has learned the dynamics.
          num_blends: actions tried between the proposed one and the backup's, the
            latter included.

        Raises:
          ConfigError: the agent cannot judge an action, its system has no backup, the
            spaces are not the agent's, or `num_blends` is below 1.
        """
        super().__init__(env)
        _check(env, agent, num_blends)
        self.agent, self.agent_state = agent, agent_state
        self.overrides = 0
        self._weights = jnp.linspace(0.0, 1.0, num_blends + 1)
        self._obs: np.ndarray | None = None
        self._num_constraints = agent.env.num_constraints
        self._choose = jax.jit(self._chosen)
        self._observe = jax.jit(self._observed)
        self._begin = jax.jit(agent.begin_episode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode with its whole budget; arguments as the environment's."""
        obs, info = self.env.reset(seed=seed, options=options)
        # Only a warm start could depend on the key, and the filter plans nothing.
        self.agent_state = self._begin(jax.random.key(0), self.agent_state)
        self.overrides, self._obs = 0, obs
        return obs, info

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Executes the action, or the nearest one that is admitted.

        Args:
          action: `[A]` proposed, clipped to [-1, 1].

        Returns:
          what the environment's step returns, the info with what the filter did.

        Raises:
          ContractError: the environment tells no cost.
          NonFiniteError: NaN or inf in the action or in the last observation; nothing
            was executed.
          ResetNeeded: no episode has begun.
        """
        if self._obs is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        # Neither can be judged, and no blend with the backup's action mends it.
        for name, values in (("action", action), ("observation", self._obs)):
            if not np.isfinite(values).all():
                raise NonFiniteError(
                    f"the {name} must be finite numbers, got "
                    f"{np.asarray(values).tolist()}; nothing was executed"
                )
        proposed = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        chosen, override, admitted = jax.device_get(
            self._choose(self.agent_state, self._obs, proposed)
        )
        executed = np.array(chosen if override else proposed)
        before = self._obs
        obs, reward, terminated, truncated, info = self.env.step(executed)
        self.agent_state = self._observe(
            self.agent_state,
            before,
            executed,
            np.float32(reward),
            self._costs(info),
            obs,
            np.bool_(terminated),
            np.bool_(truncated),
        )
        self._obs = obs
        self.overrides += int(override)
        told = {
            "override": bool(override),
            "overrides": self.overrides,
            "action": executed,
            "admitted": bool(admitted),
        }
        return obs, reward, terminated, truncated, {**info, **told}

    def _chosen(
        self, state: PyTree, obs: Array, proposed: Array
    ) -> tuple[Array, Array, Array]:
        """The first admitted action on the way to the backup's."""
        backup = jnp.clip(self.agent.env.backup(obs), -1.0, 1.0)
        weights = self._weights[:, None]
        tried = (1.0 - weights) * proposed + weights * backup
        over = jax.vmap(self.agent.overspends, (None, None, 0))(state, obs, tried)
        first = jnp.where(over.all(), len(tried) - 1, jnp.argmin(over))
        return tried[first], first > 0, ~over[first]

    def _observed(self, state: PyTree, *fields: Array) -> PyTree:
        return self.agent.observe(state, Transition(*fields))

    def _costs(self, info: dict[str, Any]) -> np.ndarray:
        """`[C]`, of all constraints."""
        costs = info.get("costs", info.get("cost"))
        if costs is None:
            raise ContractError(
                f"{self.env} tells no cost: its info must have 'costs', "
                f"[{self._num_constraints}] numbers, or 'cost' if there is one "
                "constraint; a missing cost is never taken for zero"
            )
        costs = np.atleast_1d(np.asarray(costs, np.float32))
        if costs.shape != (self._num_constraints,):
            raise ContractError(
                f"{self.env} tells costs {costs.tolist()}, the agent's system has "
                f"{self._num_constraints} constraints"
            )
        return costs


def _check(env: gymnasium.Env[Any, Any], agent: Any, num_blends: int) -> None:
    name = type(agent).__name__
    for method in ("overspends", "begin_episode", "observe"):
        if not callable(getattr(agent, method, None)):
            raise ConfigError(
                f"a SafetyFilter needs an agent that can judge an action, as MPCAgent "
                f"does; {name} has no {method}"
            )
    system = agent.env
    if not callable(getattr(system, "backup", None)):
        raise ConfigError(
            f"a SafetyFilter needs a system with a backup, {type(system).__name__} "
            "has none"
        )
    if num_blends < 1:
        raise ConfigError(f"num_blends must be >= 1, got {num_blends}")
    spaces = {
        "observation_space": (env.observation_space, (system.obs_dim,)),
        "action_space": (env.action_space, (system.action_dim,)),
    }
    for field, (space, shape) in spaces.items():
        if not isinstance(space, gymnasium.spaces.Box) or space.shape != shape:
            raise ConfigError(
                f"the agent's system has an {field} Box of shape {shape}, the "
                f"environment has {space}"
            )
    box = env.action_space
    assert isinstance(box, gymnasium.spaces.Box)  # for the type checker
    if not (np.all(box.low == -1.0) and np.all(box.high == 1.0)):
        raise ConfigError(
            f"actions must lie in [-1, 1], the environment has {box}; wrap it in "
            "gymnasium.wrappers.RescaleAction first"
        )
