"""The planners: which rollout feeds the reward, and which feeds the cost.

| planner                 | reward                   | cost                        |
| ----------------------- | ------------------------ | --------------------------- |
| `Nominal`               | sampled rollouts         | reported, never constrained |
| `Safe`                  | sampled rollouts         | a risk of the same rollouts |
| `PesTraj`               | sampled rollouts         | worst of other samples      |
| `Pessimistic`           | sampled rollouts         | an adversary's rollout      |
| `OptimisticPessimistic` | the agent's own illusion | an adversary's rollout      |

The first three pose an objective for CEM, iCEM and MPPI, the last two a game for
MinMax. In each the reward may give way to what the model does not know (`OPAX`,
`ActSafe`), and a plan may have to end where the backup keeps the limits (`terminal`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from safex import rollout
from safex.config import (
    ExplorationConfig,
    RiskConfig,
    TerminalConfig,
    require_members_apart,
)
from safex.optimizers.minmax import Game
from safex.returns import (
    conditional_value_at_risk,
    group_means,
    upper_confidence_bound,
)
from safex.rollout import Noise, Push, Reward, Stds
from safex.types import (
    Array,
    DynamicsModel,
    Environment,
    Metrics,
    Prediction,
    PyTree,
    Score,
)

# Keeps the logarithm finite where a system without noise is known exactly.
_LEAST_VARIANCE = 1e-12


class Situation(NamedTuple):
    """What a planner knows when it poses the problem of one decision.

    Attributes:
      obs: `[D]` current observation.
      model_state: the model's state.
      pessimism: `[D]` multiple of the calibrated epistemic std an adversary has.
      optimism: `[D]` multiple of it that an optimistic agent has.
      episode: `[]` int32 number of the episode, 1 for the first that is planned.
      pes_steps: `[]` steps in which an adversary may push to the full.
    """

    obs: Array
    model_state: PyTree
    pessimism: Array
    optimism: Array
    episode: Array | int = 1
    pes_steps: Array | float = math.inf


class Planner(Protocol):
    """Poses the optimisation problem of one decision."""

    @property
    def horizon(self) -> int:
        """H [steps]."""
        ...

    @property
    def terminal(self) -> TerminalConfig:
        """What is asked of the state that a plan ends in."""
        ...

    @property
    def span(self) -> int:
        """`H + K`, the steps that a plan's costs are of [steps]."""
        ...

    @property
    def std_along(self) -> str:
        """Whose stds an adversary pushes by, those of the `plan` or of the `attack`."""
        ...

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Callable[[Array], Score] | Game:
        """The objective or the game that the optimizer is given."""
        ...

    def actions(self, decision: Array) -> Array:
        """The actions `[H, A]` within the optimizer's variable `[H, X]`."""
        ...

    def report(
        self,
        key: Array,
        env: Environment,
        model: DynamicsModel,
        situation: Situation,
        decision: Array,
        threshold: Array,
    ) -> Metrics:
        """What else there is to say of a decision `[H, X]`, given `problem`'s key."""
        ...


def information_gain(prediction: Prediction) -> Array:
    """`sum_j log(1 + sigma_j^2 / nu_j^2)`, epistemic over aleatoric variance.

    Twice an upper bound on what a transition tells of the dynamics, in nats (OPAX,
    Sukhija et al. 2023, arXiv 2306.12371).
    """
    noise = prediction.aleatoric_std**2 + _LEAST_VARIANCE
    return jnp.log1p(prediction.epistemic_std**2 / noise).sum(-1)


def summed_epistemic_std(prediction: Prediction) -> Array:
    """`sum_j sigma_j`, in the observations' own units."""
    return prediction.epistemic_std.sum(-1)


# What an exploration objective makes of a prediction; the reward is not among them.
INTERESTS: dict[str, Callable[[Prediction], Array]] = {
    "information_gain": information_gain,
    "epistemic_std": summed_epistemic_std,
}


@dataclasses.dataclass(frozen=True)
class _Rollouts:
    """What all planners share.

    Attributes:
      horizon: H [steps].
      terminal: what is asked of the state that a plan ends in.
      exploration: what is maximised in place of the reward, and for how long.
    """

    horizon: int
    _: dataclasses.KW_ONLY
    terminal: TerminalConfig = rollout.NO_TERMINAL
    exploration: ExplorationConfig = ExplorationConfig()

    @property
    def span(self) -> int:
        """`H + K`, the steps that a plan's costs are of [steps]."""
        return self.horizon + self.terminal.steps

    def actions(self, decision: Array) -> Array:
        """The decision is the actions."""
        return decision

    def report(
        self,
        key: Array,
        env: Environment,
        model: DynamicsModel,
        situation: Situation,
        decision: Array,
        threshold: Array,
    ) -> Metrics:
        """Nothing else."""
        del key, env, model, situation, decision, threshold
        return {}

    def _reward(
        self, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Reward:
        """What a step is worth in this episode."""
        config = self.exploration
        if config.objective == "reward":
            return env.reward

        def interest(obs: Array, action: Array, next_obs: Array) -> Array:
            del next_obs
            prediction = model.predict(situation.model_state, obs, action)
            return INTERESTS[config.objective](prediction)

        if config.episodes == 0:
            return interest
        explores = jnp.asarray(situation.episode) <= config.episodes

        def reward(obs: Array, action: Array, next_obs: Array) -> Array:
            triple = (obs, action, next_obs)
            return jnp.where(explores, interest(*triple), env.reward(*triple))

        return reward


@dataclasses.dataclass(frozen=True)
class _Sampled(_Rollouts):
    """What the planners with sampled rollouts share.

    Attributes:
      sampling_mode: one of `rollout.SAMPLING_MODES`.
      num_particles: P rollouts per candidate; the mode MEAN needs only one.
    """

    sampling_mode: str = "MEAN"
    num_particles: int = 1

    @property
    def std_along(self) -> str:
        """The watch over the backup pushes by those of its plan."""
        return "plan"

    @property
    def particles(self) -> int:
        """Rollouts of a candidate; without noise all particles are the same one."""
        return 1 if self.sampling_mode == "MEAN" else self.num_particles

    def _noise(self, key: Array, env: Environment, model: DynamicsModel) -> Noise:
        """Leaves `[P, H + K, ...]`."""
        return rollout.draw_noise(
            key,
            self.sampling_mode,
            self.particles,
            self.span,
            env.obs_dim,
            model.num_members,
        )

    def _scores(
        self,
        noise: Noise,
        env: Environment,
        model: DynamicsModel,
        situation: Situation,
    ) -> Callable[[Array], Score]:
        """`[H, A] -> Score` with leaves `[P]` and `[P, C]`."""
        state, obs = situation.model_state, situation.obs
        how: dict[str, Any] = {
            "terminal": self.terminal,
            "reward": self._reward(env, model, situation),
        }
        if self.sampling_mode in ("TS1", "TSInf") and model.num_members:
            return lambda actions: rollout.evaluate_by_member(
                env, model, state, obs, actions, noise, **how
            )
        transition = rollout.sampled_transition(model, state, self.sampling_mode, env)

        def scores(actions: Array) -> Score:
            def particle(noise: Noise) -> Score:
                return rollout.evaluate(env, transition, obs, actions, noise, **how)

            return jax.vmap(particle)(noise)

        return scores


@dataclasses.dataclass(frozen=True)
class Safe(_Sampled):
    """SafeCEM: the reward is averaged over rollouts, the cost a risk of them.

    Attributes:
      risk: what the particles' costs come to, their mean by default. The margin, which
        orders what is not feasible, is always the largest of all particles.
      separate: the cost has particles of its own, drawn apart from the reward's.
    """

    risk: RiskConfig = RiskConfig()
    separate: bool = False

    def __post_init__(self) -> None:
        """Refuses a risk of members where particles do not keep to one.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_members_apart(self.risk, self.sampling_mode)

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Callable[[Array], Score]:
        """Mean value, risk of the cost, largest margin over particles.

        Raises:
          ValueError: the risk is of members and not each has a particle.
        """
        value_key, cost_key = self._keys(key)
        noise = self._noise(cost_key, env, model)
        cost_scores = self._scores(noise, env, model, situation)
        risk = self._risk(noise, model)
        if not self.separate:

            def objective(actions: Array) -> Score:
                value, cost, margin = cost_scores(actions)
                return Score(value.mean(), risk(cost), margin.max(0))

            return objective
        value_noise = self._noise(value_key, env, model)
        value_scores = self._scores(value_noise, env, model, situation)

        def apart(actions: Array) -> Score:
            _, cost, margin = cost_scores(actions)
            value = value_scores(actions).value.mean()
            return Score(value, risk(cost), margin.max(0))

        return apart

    def report(
        self,
        key: Array,
        env: Environment,
        model: DynamicsModel,
        situation: Situation,
        decision: Array,
        threshold: Array,
    ) -> Metrics:
        """Under the risk of members, the one whose slack is least."""
        if self.risk.kind != "members":
            return {}
        noise = self._noise(self._keys(key)[1], env, model)
        cost = self._scores(noise, env, model, situation)(decision).cost
        means = group_means(cost, noise.member[:, 0], model.num_members)
        slack = (threshold - means).min(1)
        return {"plan/binding_member": jnp.argmin(slack).astype(jnp.int32)}

    def _keys(self, key: Array) -> tuple[Array, Array]:
        """Of the value's particles and of the cost's."""
        if self.separate:
            value_key, cost_key = jax.random.split(key)
            return value_key, cost_key
        return key, key

    def _risk(self, noise: Noise, model: DynamicsModel) -> Callable[[Array], Array]:
        """`[P, C] -> [C]`."""
        risk, members = self.risk, model.num_members
        if risk.kind == "members" and not 1 <= members <= self.num_particles:
            raise ValueError(
                "risk 'members' needs a model with members and num_particles >= "
                f"{max(members, 1)}, got {self.num_particles} for {members} members"
            )
        kinds: dict[str, Callable[[Array], Array]] = {
            "mean": lambda cost: cost.mean(0),
            "max": lambda cost: cost.max(0),
            "cvar": lambda cost: conditional_value_at_risk(cost, risk.level),
            "ucb": lambda cost: upper_confidence_bound(cost, risk.kappa),
            "members": lambda cost: group_means(cost, noise.member[:, 0], members).max(
                0
            ),
        }
        return kinds[risk.kind]


@dataclasses.dataclass(frozen=True)
class Nominal(Safe):
    """CEM: as `Safe`; paired with an optimizer that ignores the cost."""


@dataclasses.dataclass(frozen=True)
class PesTraj(Safe):
    """PesTraj: cost from the worst of rollouts drawn apart from the reward's."""

    risk: RiskConfig = RiskConfig("max")
    separate: bool = True


@dataclasses.dataclass(frozen=True)
class OPAX(Safe):
    """OPAX: goes where the next observation tells most of the dynamics.

    Sukhija et al. 2023, arXiv 2306.12371, with the mean of the model for the dynamics;
    `OptimisticPessimistic` with the same exploration is the optimistic form.
    """

    exploration: ExplorationConfig = dataclasses.field(
        default=ExplorationConfig("information_gain"), kw_only=True
    )


@dataclasses.dataclass(frozen=True)
class _Attacked(_Rollouts):
    """What the planners with an adversary share.

    Attributes:
      noise_alpha: multiple of the aleatoric std by which each state is judged.
      std_along: whose stds the adversary pushes by: of the `plan` as it is without
        one, or of the `attack`, the states that it has pushed to.
    """

    noise_alpha: float = dataclasses.field(default=3.0, kw_only=True)
    std_along: str = dataclasses.field(default="plan", kw_only=True)

    def _along(
        self,
        env: Environment,
        model: DynamicsModel,
        situation: Situation,
        actions: Array,
        reward: Reward | None = None,
    ) -> tuple[Score, Stds]:
        """The plan `[H, A]` without an adversary, and the stds of all its steps."""
        return rollout.trace_mean(
            env,
            model,
            situation.model_state,
            situation.obs,
            actions,
            terminal=self.terminal,
            reward=reward,
        )

    def _attacked(
        self, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Callable[[Array, Array, Stds], tuple[Array, Array]]:
        """Cost and margin of a decision under `eta` `[H, D]`, given `_along`'s stds.

        What the adversary may afford limits how far it moves the state. By which noise
        a state is judged is another matter, for that does not add up.
        """

        def attacked(decision: Array, eta: Array, stds: Stds) -> tuple[Array, Array]:
            share = rollout.affordable(eta, situation.pes_steps, self.terminal.steps)
            transition = rollout.hallucinated_transition(
                model,
                situation.model_state,
                env,
                share * situation.pessimism,
                self.noise_alpha,
            )
            push = Push(eta, stds if self.std_along == "plan" else None)
            actions = self.actions(decision)
            score = rollout.evaluate(
                env, transition, situation.obs, actions, push, terminal=self.terminal
            )
            return score.cost, score.margin

        return attacked


@dataclasses.dataclass(frozen=True)
class Pessimistic(_Attacked, _Sampled):
    """MinMax: nominal reward, cost of the rollout that an adversary hallucinates."""

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Game:
        """The game of actions against `eta` in [-1, 1]^D."""
        reward = self._reward(env, model, situation)

        def nominal(actions: Array) -> tuple[Score, Stds]:
            return self._along(env, model, situation, actions, reward)

        if self.sampling_mode == "MEAN":
            return Game(nominal, self._attacked(env, model, situation))
        noise = self._noise(key, env, model)
        scores = self._scores(noise, env, model, situation)

        def sampled(actions: Array) -> tuple[Score, Stds]:
            value, cost, margin = scores(actions)
            score = Score(value.mean(), cost.mean(0), margin.max(0))
            return score, nominal(actions)[1]

        return Game(sampled, self._attacked(env, model, situation))


@dataclasses.dataclass(frozen=True)
class ActSafe(Pessimistic):
    """ActSafe: expands what is surely safe, then makes use of it.

    As et al. 2025, arXiv 2410.09486, without the latent world model: for some episodes
    the summed epistemic std is maximised among the plans that no adversary within the
    model's confidence makes unsafe, from then on the reward is.
    """

    exploration: ExplorationConfig = dataclasses.field(
        default=ExplorationConfig("epistemic_std", episodes=5), kw_only=True
    )


@dataclasses.dataclass(frozen=True)
class OptimisticPessimistic(_Attacked):
    """OptMinMax: an optimist's reward and a pessimist's cost.

    The agent hallucinates its own luck for the reward (H-UCRL, Curi et al. 2020,
    arXiv 2006.08684), an adversary its misfortune for the cost. The agent's variable
    is `(eta, action)`, `[H, D + A]`.

    Attributes:
      obs_dim: D.
    """

    obs_dim: int

    def actions(self, decision: Array) -> Array:
        """Drops the agent's own hallucination."""
        return decision[..., self.obs_dim :]

    def problem(
        self, key: Array, env: Environment, model: DynamicsModel, situation: Situation
    ) -> Game:
        """The game of `(eta, action)` against `eta` in [-1, 1]^D."""
        del key
        state, obs = situation.model_state, situation.obs
        reward = self._reward(env, model, situation)
        hopeful = rollout.hallucinated_transition(
            model, state, env, situation.optimism, 0.0
        )

        def nominal(decision: Array) -> tuple[Score, Stds]:
            luck = Push(decision[..., : self.obs_dim])
            actions = self.actions(decision)
            score = rollout.evaluate(
                env,
                hopeful,
                obs,
                actions,
                luck,
                terminal=self.terminal,
                reward=reward,
            )
            # The agent's luck decides the reward alone: the cost is the adversary's.
            none = jnp.zeros_like(score.cost)
            score = Score(score.value, none, jnp.full_like(score.margin, -jnp.inf))
            return score, self._along(env, model, situation, actions)[1]

        return Game(nominal, self._attacked(env, model, situation))
