"""Parity with the study's oracle: planning with the true pendulum."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import CEMConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.rule import Rule
from safex.constraints.unconstrained import Unconstrained
from safex.envs.pendulum import Pendulum
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.cem import CEM


@dataclasses.dataclass(frozen=True)
class Switched(Rule):
    """Feasible first or unconstrained, as a traced flag says: one compilation."""

    constrained: Any

    def order(self, state, threshold, score):
        rules = FeasibleFirst(), Unconstrained()
        orders = [rule.order(state, threshold, score) for rule in rules]
        return jnp.where(self.constrained, *orders)

    def feasible(self, state, threshold, score):
        return ~self.constrained | super().feasible(state, threshold, score)


class Episode(NamedTuple):
    """What happened, leaves `[T]`."""

    reward: np.ndarray
    cost: np.ndarray
    margin: np.ndarray
    feasible: np.ndarray
    angle: np.ndarray


def planner(config, steps):
    """A compiled episode of planning, `(seed, constrained) -> Episode`."""

    @jax.jit
    def run(key, constrained):
        env = Pendulum.from_config()
        planner, rule = Safe(config.horizon), Switched(constrained)
        agent = MPCAgent(env, TrueDynamics(env), planner, CEM(1, config), rule)
        reset_key, init_key, key = jax.random.split(key, 3)
        state, obs = env.reset(reset_key)

        def advance(carry, key):
            agent_state, state, obs = carry
            act_key, step_key = jax.random.split(key)
            agent_state, action, info = agent.act(act_key, agent_state, obs)
            step = env.step(step_key, state, action)
            seen = Episode(
                reward=step.reward,
                cost=step.cost[0],
                margin=env.margin(obs, action, step.obs)[0],
                feasible=info["plan/feasible"],
                angle=jnp.arctan2(step.obs[1], step.obs[0]),
            )
            return (agent_state, step.state, step.obs), seen

        start = (agent.init(init_key), state, obs)
        return jax.lax.scan(advance, start, jax.random.split(key, steps))[1]

    def episode(seed, constrained):
        return jax.device_get(run(jax.random.key(seed), jnp.asarray(constrained)))

    return episode


def stays_up(episode):
    return np.all(np.abs(episode.angle[-10:]) < 0.1)


@pytest.fixture(scope="module")
def small():
    """A fifth of the study's samples, and only the steps of the swing-up."""
    return planner(CEMConfig(num_samples=100, num_iter=4, num_elites=10), 90)


def test_swings_up_past_the_limit_when_nothing_forbids_it(small):
    episode = small(1, constrained=False)
    assert stays_up(episode)
    assert episode.cost.sum() >= 3
    assert episode.margin.max() > 0.3
    assert episode.reward.sum() > -350.0


def test_swings_up_below_the_limit(small):
    episode = small(1, constrained=True)
    assert stays_up(episode)
    assert not episode.cost.any()
    assert -0.5 < episode.margin.max() <= 0.0  # and makes use of what is allowed
    assert episode.feasible.all()
    # Safety costs little, and costs something.
    unsafe = small(1, constrained=False).reward.sum()
    assert unsafe - 15.0 < episode.reward.sum() < unsafe


@pytest.mark.slow
def test_full_size_has_the_returns_of_the_study():
    full = planner(CEMConfig(), 200)
    unsafe, safe = (
        [full(seed, constrained) for seed in range(3)] for constrained in (False, True)
    )
    mean_return = [np.mean([e.reward.sum() for e in es]) for es in (unsafe, safe)]
    assert mean_return == pytest.approx([-338.0, -344.0], abs=10.0)
    assert all(4 <= e.cost.sum() <= 8 for e in unsafe)
    assert not any(e.cost.any() for e in safe)
    assert all(stays_up(e) for e in [*unsafe, *safe])
