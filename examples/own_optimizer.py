"""An optimizer of one's own: an evolution strategy that finds its own step size.

    python examples/own_optimizer.py

Parks the car of `safex/CarPark-v0` with the true model. An optimizer sees an objective
`[H, A] -> Score` and a constraint that orders scores; neither says what is planned.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import TerminalConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.rule import Constraint
from safex.envs.car_park import CarPark
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers import gaussian
from safex.types import Array, Metrics, Plan


@dataclasses.dataclass(frozen=True)
class EvolutionStrategy:
    """(1 + N) with the 1/5 rule (Rechenberg 1973).

    The next generation is wider after many successes, else finer. A success is a child
    that the constraint orders before its parent.
    """

    action_dim: int
    horizon: int
    num_samples: int = 64
    num_iter: int = 12

    def init(self, key: Array) -> Array:
        """Starts from the zero sequence."""
        return jnp.zeros((self.horizon, self.action_dim))

    def shift(self, state: Array, last: Array | None = None) -> Array:
        """Warm start of the next step."""
        return gaussian.shift(state, last=last)

    def optimize(
        self, key: Array, state: Array, objective: Any, constraint: Constraint
    ) -> tuple[Array, Plan, Metrics]:
        """Searches once; the parent is the first of each generation."""
        horizon, dim = self.horizon, self.action_dim
        size = (self.num_samples, horizon, dim)

        def generation(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
            parent, std, incumbent = carry
            # Few switches: what moves a car is a push that lasts.
            noise = gaussian.coloured_noise(key, 2.0, size).at[0].set(0.0)
            tried = jnp.clip(parent + std * noise, -1.0, 1.0)
            family = gaussian.evaluate(objective, tried)
            order = constraint.order(family.score)
            std = std * jnp.where(jnp.argmin(order) > self.num_samples / 5, 1.5, 0.7)
            best = gaussian.take(family, order)
            incumbent = gaussian.update_incumbent(incumbent, best, constraint)
            info = gaussian.search_info(incumbent, family, constraint)
            return (best.actions[0], std, incumbent), info

        start = (state, jnp.ones(()), gaussian.no_incumbent(horizon, dim, constraint))
        end, info = jax.lax.scan(
            generation, start, jax.random.split(key, self.num_iter)
        )
        return end[0], gaussian.to_plan(end[2], constraint), info


def main(steps: int = 120) -> tuple[Array, float, float]:
    """Last observation, return and violating steps of an episode."""
    env = CarPark.from_config()
    planner = Safe(15, terminal=TerminalConfig(steps=15))
    search = EvolutionStrategy(env.action_dim, planner.horizon)
    agent = MPCAgent(env, TrueDynamics(env), planner, search, FeasibleFirst())
    act, step, total, violating = jax.jit(agent.act), jax.jit(env.step), 0.0, 0.0
    state = agent.init(jax.random.key(0))
    env_state, obs = env.reset(jax.random.key(1))
    for key in jax.random.split(jax.random.key(2), steps):
        state, action, _ = act(key, state, obs)
        env_state, obs, reward, cost, *_ = step(key, env_state, action)
        total, violating = total + float(reward), violating + float(cost[0])
    return obs, total, violating


if __name__ == "__main__":
    print("position and speed {}, return {:.1f}, violating {:.0f}".format(*main()))
