"""The five planners: which rollout feeds the reward, and which feeds the cost.

| planner                 | reward                   | cost                        |
| ----------------------- | ------------------------ | --------------------------- |
| `Nominal`               | sampled rollouts         | reported, never constrained |
| `Safe`                  | sampled rollouts         | mean over the same rollouts |
| `PesTraj`               | sampled rollouts         | worst of other samples      |
| `Pessimistic`           | sampled rollouts         | an adversary's rollout      |
| `OptimisticPessimistic` | the agent's own illusion | an adversary's rollout      |

The first three pose an objective for CEM and iCEM, the last two a game for MinMax.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from safex import rollout
from safex.optimizers.minmax import Game
from safex.rollout import Noise
from safex.types import Array, DynamicsModel, Environment, PyTree, Score


class Situation(NamedTuple):
    """What a planner knows when it poses the problem of one decision.

    Attributes:
      obs: `[D]` current observation.
      model_state: the model's state.
      pessimism: `[D]` multiple of the calibrated epistemic std an adversary has.
      optimism: `[D]` multiple of it that an optimistic agent has.
    """

    obs: Array
    model_state: PyTree
    pessimism: Array
    optimism: Array


class Planner(Protocol):
    """Poses the optimisation problem of one decision."""

    @property
    def horizon(self) -> int:
        """H [steps]."""
        ...

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Callable[[Array], Score] | Game:
        """The objective or the game that the optimizer is given."""
        ...

    def actions(self, decision: Array) -> Array:
        """The actions `[H, A]` within the optimizer's variable `[H, X]`."""
        ...


@dataclasses.dataclass(frozen=True)
class _Sampled:
    """What the planners with sampled rollouts share.

    Attributes:
      horizon: H [steps].
      sampling_mode: one of `rollout.SAMPLING_MODES`.
      num_particles: P rollouts per candidate; the mode MEAN needs only one.
    """

    horizon: int
    sampling_mode: str = "MEAN"
    num_particles: int = 1

    def actions(self, decision: Array) -> Array:
        """The decision is the actions."""
        return decision

    def _scores(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Callable[[Array], Score]:
        """`[H, A] -> Score` with leaves `[P]` and `[P, C]`."""
        # Without noise all particles are the same rollout.
        particles = 1 if self.sampling_mode == "MEAN" else self.num_particles
        noise = rollout.draw_noise(
            key,
            self.sampling_mode,
            particles,
            self.horizon,
            env.obs_dim,
            model.num_members,
        )
        if self.sampling_mode in ("TS1", "TSInf") and model.num_members:
            return lambda actions: rollout.evaluate_by_member(
                env, model, situation.model_state, situation.obs, actions, noise
            )
        transition = rollout.sampled_transition(
            model, situation.model_state, self.sampling_mode, env
        )

        def scores(actions: Array) -> Score:
            def particle(noise: Noise) -> Score:
                return rollout.evaluate(env, transition, situation.obs, actions, noise)

            return jax.vmap(particle)(noise)

        return scores


@dataclasses.dataclass(frozen=True)
class Safe(_Sampled):
    """SafeCEM: reward and cost from the same rollouts, both averaged."""

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Callable[[Array], Score]:
        """Mean value, mean cost, largest margin over particles."""
        scores = self._scores(key, env, model, situation)

        def objective(actions: Array) -> Score:
            value, cost, margin = scores(actions)
            return Score(value.mean(), cost.mean(0), margin.max(0))

        return objective


@dataclasses.dataclass(frozen=True)
class Nominal(Safe):
    """CEM: as `Safe`; paired with an optimizer that ignores the cost."""


@dataclasses.dataclass(frozen=True)
class PesTraj(_Sampled):
    """PesTraj: cost from the worst of rollouts drawn apart from the reward's."""

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Callable[[Array], Score]:
        """Mean value; cost and margin of the worst of P other particles."""
        value_key, cost_key = jax.random.split(key)
        value_scores = self._scores(value_key, env, model, situation)
        cost_scores = self._scores(cost_key, env, model, situation)

        def objective(actions: Array) -> Score:
            _, cost, margin = cost_scores(actions)
            value = value_scores(actions).value.mean()
            return Score(value, cost.max(0), margin.max(0))

        return objective


@dataclasses.dataclass(frozen=True)
class Pessimistic(_Sampled):
    """MinMax: nominal reward, cost of the rollout that an adversary hallucinates.

    Attributes:
      noise_alpha: multiple of the aleatoric std by which each state is judged.
    """

    noise_alpha: float = 3.0

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Game:
        """The game of actions against `eta` in [-1, 1]^D."""
        scores = self._scores(key, env, model, situation)
        pessimistic = rollout.hallucinated_transition(
            model,
            situation.model_state,
            env,
            situation.pessimism,
            self.noise_alpha,
        )

        def nominal(actions: Array) -> Score:
            value, cost, margin = scores(actions)
            return Score(value.mean(), cost.mean(0), margin.max(0))

        def attacked(actions: Array, eta: Array) -> tuple[Array, Array]:
            score = rollout.evaluate(env, pessimistic, situation.obs, actions, eta)
            return score.cost, score.margin

        return Game(nominal, attacked)


@dataclasses.dataclass(frozen=True)
class OptimisticPessimistic:
    """OptMinMax: an optimist's reward and a pessimist's cost.

    The agent hallucinates its own luck for the reward (H-UCRL, Curi et al. 2020,
    arXiv 2006.08684), an adversary its misfortune for the cost. The agent's variable
    is `(eta, action)`, `[H, D + A]`.

    Attributes:
      horizon: H [steps].
      obs_dim: D.
      noise_alpha: multiple of the aleatoric std by which each state is judged.
    """

    horizon: int
    obs_dim: int
    noise_alpha: float = 3.0

    def actions(self, decision: Array) -> Array:
        """Drops the agent's own hallucination."""
        return decision[..., self.obs_dim :]

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Game:
        """The game of `(eta, action)` against `eta` in [-1, 1]^D."""
        del key
        state, obs = situation.model_state, situation.obs
        hopeful = rollout.hallucinated_transition(
            model, state, env, situation.optimism, 0.0
        )
        pessimistic = rollout.hallucinated_transition(
            model, state, env, situation.pessimism, self.noise_alpha
        )

        def nominal(decision: Array) -> Score:
            luck = decision[..., : self.obs_dim]
            score = rollout.evaluate(env, hopeful, obs, self.actions(decision), luck)
            # The agent's luck decides the reward alone: the cost is the adversary's.
            none = jnp.zeros_like(score.cost)
            return Score(score.value, none, jnp.full_like(score.margin, -jnp.inf))

        def attacked(decision: Array, eta: Array) -> tuple[Array, Array]:
            actions = self.actions(decision)
            score = rollout.evaluate(env, pessimistic, obs, actions, eta)
            return score.cost, score.margin

        return Game(nominal, attacked)
