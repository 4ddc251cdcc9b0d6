"""Model-predictive control: fit a model once an episode, plan at every step.

One agent for all planners. What tells CEM, SafeCEM, PesTraj, MinMax and OptMinMax apart
is the planner that poses the problem and the optimizer that solves it, both passed in.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from safex import rollout
from safex.agents.planners import Planner, Situation
from safex.config import MPCConfig
from safex.optimizers.minmax import corner_signs
from safex.schedules import scheduled
from safex.types import (
    Array,
    Dataset,
    DynamicsModel,
    Environment,
    Metrics,
    Prediction,
    PyTree,
)


class MPCState(NamedTuple):
    """All that changes.

    Attributes:
      model_state: of the dynamics model.
      optimizer_state: warm start of the next decision.
      pessimism: `[]` pes_alpha of this episode.
      optimism: `[]` opt_alpha of this episode.
      episode: `[]` int32 episodes learned from, 0 before the first fit.
    """

    model_state: PyTree
    optimizer_state: PyTree
    pessimism: Array
    optimism: Array
    episode: Array


@dataclasses.dataclass(frozen=True)
class MPCAgent:
    """Plans with a learned model, acts with the first action, learns once an episode.

    Attributes:
      env: reward, cost, and which observations are possible; never its dynamics.
      model: dynamics model.
      planner: poses the problem of one decision.
      optimizer: solves it.
      config: confidence widths.
    """

    env: Environment
    model: DynamicsModel
    planner: Planner
    optimizer: Any
    config: MPCConfig = MPCConfig()

    @property
    def beta(self) -> Array:
        """`[D]` confidence width of each observation dimension."""
        return jnp.broadcast_to(jnp.asarray(self.config.beta), (self.env.obs_dim,))

    def init(self, key: Array) -> MPCState:
        """An agent that has seen nothing."""
        model_key, optimizer_key = jax.random.split(key)
        episode = jnp.zeros((), jnp.int32)
        pessimism, optimism = self._widths(episode)
        return MPCState(
            model_state=self.model.init(model_key),
            optimizer_state=self.optimizer.init(optimizer_key),
            pessimism=pessimism,
            optimism=optimism,
            episode=episode,
        )

    def begin_episode(self, key: Array, state: MPCState) -> MPCState:
        """Drops the warm start: it belongs to the end of another episode."""
        return state._replace(optimizer_state=self.optimizer.init(key))

    def act(
        self, key: Array, state: MPCState, obs: Array, *, explore: bool = True
    ) -> tuple[MPCState, Array, Metrics]:
        """Plans from `obs` `[D]` and returns the first action `[A]`.

        Without a feasible plan the backup acts: the candidate of least excess.

        Returns:
          next state, action, and `plan/*` (value, cost, margin, feasible, backup) with
          `prediction/*`, the calibrated belief about the next observation.
        """
        del explore  # planning explores through its own optimism
        problem_key, search_key = jax.random.split(key)
        situation = Situation(
            obs,
            state.model_state,
            state.pessimism * self.beta,
            state.optimism * self.beta,
        )
        problem = self.planner.problem(problem_key, self.env, self.model, situation)
        warm = self.optimizer.shift(state.optimizer_state)
        optimizer_state, plan, info = self.optimizer.optimize(search_key, warm, problem)
        decision = jnp.where(plan.feasible, plan.actions, plan.backup_actions)
        action = self.planner.actions(decision)[0]
        belief = self.model.predict(state.model_state, obs, action)
        metrics = {
            "plan/value": plan.value,
            "plan/cost": plan.cost,
            "plan/margin": plan.margin,
            "plan/feasible": plan.feasible,
            "plan/backup": ~plan.feasible,
            "prediction/mean": belief.mean,
            "prediction/epistemic_std": belief.epistemic_std,
            "prediction/aleatoric_std": belief.aleatoric_std,
            "search": info,
        }
        return state._replace(optimizer_state=optimizer_state), action, metrics

    def predict(self, state: MPCState, obs: Array, action: Array) -> Prediction:
        """The calibrated belief about a next observation, `[D], [A] -> Prediction`."""
        return self.model.predict(state.model_state, obs, action)

    def band(
        self, state: MPCState, obs: Array, actions: Array
    ) -> tuple[Array, Array, Array]:
        """Where the pessimist thinks an action sequence may lead.

        Args:
          state: the agent's state.
          obs: `[D]` where it starts.
          actions: `[H, A]`.

        Returns:
          nominal, lowest and highest observation of each step, each `[H, D]`; the last
          two over adversaries that push every dimension one way all the time.
        """
        hallucinated = rollout.hallucinated_transition(
            self.model, state.model_state, self.env, state.pessimism * self.beta, 0.0
        )

        def push(eta: Array) -> Array:
            steps = jnp.broadcast_to(eta, (actions.shape[0], eta.shape[0]))
            return rollout.trajectory(hallucinated, obs, actions, steps)

        nominal = push(jnp.zeros(self.env.obs_dim))
        pushed = jax.vmap(push)(corner_signs(self.env.obs_dim))
        paths = jnp.concatenate([nominal[None], pushed])
        return nominal, paths.min(0), paths.max(0)

    def test_rows(self, data: Dataset) -> Array:
        """`[capacity]` bool: rows that the model neither trained nor calibrated on."""
        return self.model.test_rows(data)

    def update(
        self, key: Array, state: MPCState, data: Dataset
    ) -> tuple[MPCState, Metrics]:
        """Fits and calibrates the model, then moves pessimism and optimism on."""
        model_state, metrics = self.model.fit(key, state.model_state, data)
        episode = state.episode + 1
        pessimism, optimism = self._widths(episode)
        metrics = {f"model/{name}": value for name, value in metrics.items()}
        metrics |= {"agent/pessimism": pessimism, "agent/optimism": optimism}
        state = state._replace(
            model_state=model_state,
            pessimism=pessimism,
            optimism=optimism,
            episode=episode,
        )
        return state, metrics

    def _widths(self, episode: Array) -> tuple[Array, Array]:
        config = self.config
        return (
            scheduled(config.pes_schedule, config.pes_alpha, episode),
            scheduled(config.opt_schedule, config.opt_alpha, episode),
        )
