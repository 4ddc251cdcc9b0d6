"""Model-predictive control: fit a model once an episode, plan at every step.

One agent for all planners. What tells CEM, SafeCEM, PesTraj, MinMax and OptMinMax apart
is the planner that poses the problem, the optimizer that solves it and the rule that
the costs count by, all passed in.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from safex import rollout
from safex.agents.planners import Planner, Situation
from safex.config import MPCConfig, TerminalConfig
from safex.constraints.rule import COST_TOLERANCE, Constraint, Rule
from safex.models.staged import sized
from safex.optimizers.minmax import Game, corner_signs, doubling, first_steps
from safex.returns import horizon_threshold
from safex.schedules import scheduled
from safex.types import (
    Array,
    Dataset,
    DynamicsModel,
    Environment,
    Metrics,
    Prediction,
    PyTree,
    Transition,
)

# Why the backup acted, in the metrics and in the account; 0 is that it did not.
NO_FEASIBLE_PLAN = 1
BUDGET_SWITCH = 2


class Widths(NamedTuple):
    """The numbers of an `MPCConfig` that may be traced, and so differ between runs.

    Attributes:
      beta: `[D]` confidence width of each observation dimension.
      pes_alpha: `[]`.
      pes_steps: `[]`, infinite for all.
      opt_alpha: `[]`.
      cost_budget: `[C]` allowed cost of an episode under each constraint.
    """

    beta: Array
    pes_alpha: Array
    pes_steps: Array
    opt_alpha: Array
    cost_budget: Array

    @classmethod
    def of(cls, config: MPCConfig, env: Environment) -> "Widths":
        """Those of a configuration, for a system's dimensions."""
        steps = math.inf if config.pes_steps is None else config.pes_steps
        return cls(
            beta=_entries(config.beta, env.obs_dim),
            # Typed: a number that takes its type from its neighbours compiles anew.
            pes_alpha=jnp.asarray(config.pes_alpha, jnp.float32),
            pes_steps=jnp.asarray(steps, jnp.float32),
            opt_alpha=jnp.asarray(config.opt_alpha, jnp.float32),
            cost_budget=_entries(config.cost_budget, env.num_constraints),
        )


class MPCState(NamedTuple):
    """All that changes.

    Attributes:
      model_state: of the dynamics model.
      optimizer_state: warm start of the next decision.
      pessimism: `[]` pes_alpha of this episode.
      optimism: `[]` opt_alpha of this episode.
      episode: `[]` int32 episodes learned from, 0 before the first fit.
      rule_state: of the constraint rule.
      spent: `[C]` cost of this episode so far.
      steps: `[]` int32 steps of this episode so far.
      tail: `[A]` what the backup does where the last plan ends; zero without a terminal
        condition.
    """

    model_state: PyTree
    optimizer_state: PyTree
    pessimism: Array
    optimism: Array
    episode: Array
    rule_state: PyTree
    spent: Array
    steps: Array
    tail: Array


@dataclasses.dataclass(frozen=True)
class MPCAgent:
    """Plans with a learned model, acts with the first action, learns once an episode.

    Attributes:
      env: reward, cost, and which observations are possible; never its dynamics.
      model: dynamics model.
      planner: poses the problem of one decision.
      optimizer: solves it.
      rule: how costs count against a plan.
      config: confidence widths, the cost budget of an episode, and the backup.
      widths: take the place of the config's, for runs that differ in them.
    """

    env: Environment
    model: DynamicsModel
    planner: Planner
    optimizer: Any
    rule: Rule
    config: MPCConfig = MPCConfig()
    widths: Widths | None = None

    def __post_init__(self) -> None:
        """Refuses an environment that lacks what the settings ask of it.

        Raises:
          ValueError: names the setting and what is missing.
        """
        terminal = self.planner.terminal
        needed = {
            "backup": {
                "backup 'policy'": self.config.backup == "policy",
                "terminal steps": terminal.steps > 0,
            },
            "terminal_value": {"terminal value 'env'": terminal.value == "env"},
        }
        for method, settings in needed.items():
            for setting, used in settings.items():
                if used and getattr(self.env, method, None) is None:
                    raise ValueError(
                        f"{setting} needs an environment with a {method}, "
                        f"{type(self.env).__name__} has none"
                    )

    @property
    def beta(self) -> Array:
        """`[D]` confidence width of each observation dimension."""
        return self._widths.beta

    @property
    def _widths(self) -> Widths:
        return self.widths or Widths.of(self.config, self.env)

    def init(self, key: Array) -> MPCState:
        """An agent that has seen nothing."""
        model_key, optimizer_key = jax.random.split(key)
        episode = jnp.zeros((), jnp.int32)
        pessimism, optimism = self._scheduled(episode)
        return MPCState(
            model_state=self.model.init(model_key),
            optimizer_state=self.optimizer.init(optimizer_key),
            pessimism=pessimism,
            optimism=optimism,
            episode=episode,
            rule_state=self.rule.init(self.env.num_constraints),
            spent=jnp.zeros(self.env.num_constraints),
            steps=jnp.zeros((), jnp.int32),
            tail=jnp.zeros(self.env.action_dim),
        )

    def begin_episode(self, key: Array, state: MPCState) -> MPCState:
        """Drops the warm start: it belongs to the end of another episode.

        The widths are those of this agent, also where another learned the state.
        """
        pessimism, optimism = self._scheduled(state.episode)
        return state._replace(
            pessimism=pessimism,
            optimism=optimism,
            optimizer_state=self.optimizer.init(key),
            spent=jnp.zeros_like(state.spent),
            steps=jnp.zeros_like(state.steps),
            tail=jnp.zeros_like(state.tail),
        )

    def pose(self, key: Array) -> MPCState:
        """Scores one candidate and decides nothing; to be traced before a run.

        Raises:
          ValueError: the planner asks what this model or this system cannot do.
        """
        state = self.init(key)
        widths = jnp.ones(self.env.obs_dim)
        obs = jnp.zeros(self.env.obs_dim)
        situation = Situation(obs, state.model_state, widths, widths)
        problem = self.planner.problem(key, self.env, self._searched, situation)
        horizon = self.planner.horizon
        variables = getattr(self.optimizer, "x_dim", self.env.action_dim)
        decision = jnp.zeros((horizon, variables))
        if isinstance(problem, Game):
            _, known = problem.nominal(decision)
            problem.attacked(decision, jnp.zeros((horizon, self.env.obs_dim)), known)
        else:
            problem(decision)
        return state

    def constraint(self, state: MPCState) -> Constraint:
        """What the next plan must keep: its share of what the budget has left.

        Where the budget switch watches over it, the plan may spend all that is left.
        """
        length = self.config.episode_steps or self.env.max_steps
        steps_left = jnp.maximum(length - state.steps, 1)
        threshold = jnp.maximum(self._widths.cost_budget - state.spent, 0.0)
        if not self.config.budget_switch:
            threshold = horizon_threshold(threshold, steps_left, self.planner.span)
        return Constraint(threshold, state.rule_state, self.rule)

    def act(
        self, key: Array, state: MPCState, obs: Array, *, explore: bool = True
    ) -> tuple[MPCState, Array, Metrics]:
        """Plans from `obs` `[D]` and returns the first action `[A]`.

        Without a feasible plan the backup acts, unless the rule forbids nothing: the
        candidate of least margin, or the environment's own controller. With the budget
        switch that controller also acts where `switch_cost` says that after one more
        step of the plan it could no longer keep the episode's budget.

        Returns:
          next state, action, and `plan/*` (value, cost, margin, threshold, feasible;
          the share of feasible candidates in the last iteration, the slack under each
          constraint and which has least; whether the backup acts, and why) with
          `prediction/*`, the calibrated belief about the next observation.
        """
        del explore  # planning explores through its own optimism
        problem_key, search_key = jax.random.split(key)
        situation = Situation(
            obs,
            state.model_state,
            state.pessimism * self.beta,
            state.optimism * self.beta,
            state.episode,
            self._widths.pes_steps,
        )
        problem = self.planner.problem(problem_key, self.env, self._searched, situation)
        # What is left of a plan with the backup behind it is feasible if the plan was.
        stops = self.planner.terminal.steps > 0
        tail = state.tail if stops else None
        warm = self.optimizer.shift(state.optimizer_state, tail)
        constraint = self.constraint(state)
        optimizer_state, plan, info = self.optimizer.optimize(
            search_key, warm, problem, constraint
        )
        action = self.planner.actions(plan.actions)[0]
        reason = self._backup_reason(state, obs, action, plan.feasible)
        if self.config.backup == "policy":
            fallback = self.env.backup(obs)
        else:
            fallback = self.planner.actions(plan.backup_actions)[0]
        action = jnp.where(reason > 0, fallback, action)
        slack = constraint.threshold - plan.cost
        belief = self.model.predict(state.model_state, obs, action)
        metrics = {
            "plan/value": plan.value,
            "plan/cost": plan.cost,
            "plan/margin": plan.margin,
            "plan/threshold": constraint.threshold,
            "plan/feasible": plan.feasible,
            "plan/feasible_share": info["feasible_share"][-1],
            "plan/slack": slack,
            "plan/binding": jnp.argmin(slack).astype(jnp.int32),
            "plan/backup": reason > 0,
            "plan/backup_reason": reason,
            "prediction/mean": belief.mean,
            "prediction/epistemic_std": belief.epistemic_std,
            "prediction/aleatoric_std": belief.aleatoric_std,
            "search": info,
        }
        metrics |= self.planner.report(
            problem_key,
            self.env,
            self.model,
            situation,
            plan.actions,
            constraint.threshold,
        )
        state = state._replace(optimizer_state=optimizer_state)
        if stops:
            state = state._replace(tail=self._tail(state, obs, plan.actions))
        return state, action, metrics

    def switch_cost(self, state: MPCState, obs: Array, action: Array) -> Array:
        """What one action and then the backup may cost over `H + K` steps, `[C]`.

        The worst of adversaries that push every dimension one way, some for a while and
        some all the time, and of none at all: the pessimistic cost-to-go of the safe
        policy (Wendl et al. 2026, arXiv 2601.19612), over the horizon in place of the
        rest of the episode. Infinite where the model answers NaN.

        Args:
          state: the agent's state.
          obs: `[D]` where it starts.
          action: `[A]` first action.
        """
        span = self.planner.span
        terminal = TerminalConfig(steps=span - 1)
        stds = self._stds(state, obs, action[None], terminal)

        def cost(eta: Array) -> Array:
            transition = self._pushed(state, eta, self.config.switch_noise_alpha)
            push = rollout.Push(eta, stds)
            score = rollout.evaluate(
                self.env, transition, obs, action[None], push, terminal=terminal
            )
            # NaN passes no limit, so a path that is lost would cost nothing.
            return jnp.where(jnp.isnan(score.margin), jnp.inf, score.cost)

        return jax.vmap(cost)(self._pushes(span)).max(0)

    def overspends(self, state: MPCState, obs: Array, action: Array) -> Array:
        """`[]` bool: after this action the backup might break the episode's budget.

        What the episode has spent and `switch_cost` together are more than the budget,
        or cannot be told because something is NaN.
        """
        total = state.spent + self.switch_cost(state, obs, action)
        kept = total <= self._widths.cost_budget + COST_TOLERANCE
        return ~jnp.all(kept)

    def _tail(self, state: MPCState, obs: Array, decision: Array) -> Array:
        """`[A]` what the backup does where a plan is expected to end."""
        nominal = rollout.sampled_transition(
            self.model, state.model_state, "MEAN", self.env
        )
        actions = self.planner.actions(decision)
        unused = jnp.zeros(len(actions))
        path = rollout.trajectory(nominal, obs, actions, unused)
        return self.env.backup(path[-1])

    def _backup_reason(
        self, state: MPCState, obs: Array, action: Array, feasible: Array
    ) -> Array:
        """`[]` int32: 0 where the plan acts."""
        forbidden = ~feasible & (not self.rule.prices)
        reason = jnp.where(forbidden, NO_FEASIBLE_PLAN, 0)
        if self.config.budget_switch:
            over = self.overspends(state, obs, action)
            reason = jnp.where(over & ~forbidden, BUDGET_SWITCH, reason)
        return reason.astype(jnp.int32)

    def observe(self, state: MPCState, transition: Transition) -> MPCState:
        """Adds a step's cost to what the episode has spent."""
        return state._replace(
            spent=state.spent + transition.cost, steps=state.steps + 1
        )

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
          two over adversaries that push every dimension one way, some for a while and
          some all the time.
        """
        stds = self._stds(state, obs, actions)

        def path(eta: Array) -> Array:
            transition = self._pushed(state, eta, 0.0)
            return rollout.trajectory(transition, obs, actions, rollout.Push(eta, stds))

        paths = jax.vmap(path)(self._pushes(actions.shape[0]))
        return paths[0], paths.min(0), paths.max(0)

    def _pushes(self, length: int) -> Array:
        """None, then one way for 1, 2, 4, ... steps and all, `[pushes, length, D]`."""
        etas = first_steps(corner_signs(self.env.obs_dim), length, doubling(length))
        return jnp.concatenate([jnp.zeros_like(etas[:1]), etas])

    def _stds(
        self,
        state: MPCState,
        obs: Array,
        actions: Array,
        terminal: TerminalConfig = rollout.NO_TERMINAL,
    ) -> rollout.Stds | None:
        """Those an adversary of `actions` `[H, A]` pushes by, as in the planner."""
        if self.planner.std_along == "attack":
            return None
        return rollout.trace_mean(
            self.env, self.model, state.model_state, obs, actions, terminal=terminal
        )[1]

    def _pushed(
        self, state: MPCState, eta: Array, noise_alpha: float
    ) -> Callable[[Array, Array, rollout.Push], rollout.Outcome]:
        """The transition under an adversary `[length, D]`."""
        share = rollout.affordable(eta, self._widths.pes_steps)
        return rollout.hallucinated_transition(
            self.model,
            state.model_state,
            self.env,
            share * state.pessimism * self.beta,
            noise_alpha,
        )

    @property
    def _searched(self) -> DynamicsModel:
        """The model, told how many inputs a search asks it of at once, if that does."""
        if not hasattr(self.optimizer, "batch_size"):
            return self.model
        particles = getattr(self.planner, "particles", 1)
        return sized(self.model, self.optimizer.batch_size * particles)

    def test_rows(self, data: Dataset) -> Array:
        """`[capacity]` bool: rows that the model neither trained nor calibrated on."""
        return self.model.test_rows(data)

    def update(
        self, key: Array, state: MPCState, data: Dataset
    ) -> tuple[MPCState, Metrics]:
        """Fits and calibrates the model, then moves rule and widths on."""
        model_state, metrics = self.model.fit(key, state.model_state, data)
        # The random phase was no decision of the agent, so its rule learns nothing.
        planned = state.episode > 0
        budget = self._widths.cost_budget
        learned = self.rule.update(state.rule_state, state.spent, budget)
        rule_state = jax.tree.map(
            lambda new, old: jnp.where(planned, new, old), learned, state.rule_state
        )
        episode = state.episode + 1
        pessimism, optimism = self._scheduled(episode)
        metrics = {f"model/{name}": value for name, value in metrics.items()}
        metrics |= {"agent/pessimism": pessimism, "agent/optimism": optimism}
        for path, value in jax.tree_util.tree_leaves_with_path(rule_state):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            metrics[f"rule/{name or 'state'}"] = value
        state = state._replace(
            model_state=model_state,
            pessimism=pessimism,
            optimism=optimism,
            episode=episode,
            rule_state=rule_state,
        )
        return state, metrics

    def _scheduled(self, episode: Array) -> tuple[Array, Array]:
        """pes_alpha and opt_alpha of an episode."""
        config, widths = self.config, self._widths
        return (
            scheduled(config.pes_schedule, widths.pes_alpha, episode),
            scheduled(config.opt_schedule, widths.opt_alpha, episode),
        )


def _entries(values: tuple[float, ...], size: int) -> Array:
    """One number or one per entry, as `[size]`."""
    return jnp.broadcast_to(jnp.asarray(values, jnp.float32), (size,))
