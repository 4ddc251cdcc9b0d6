"""An agent of one's own: a policy that is improved in the model's imagination.

    python examples/own_agent.py

It stops a car on ice in front of a wall. It does not plan at every step: after each
episode it fits its model and searches for gains whose imagined episode is best among
those that keep the limit, also where the model errs towards the wall, by `beta` stds in
`push_steps` steps or by less in all of them. The loop and the account are those of
every other agent.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from safex import config, rollout, types
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.rule import constrain
from safex.envs.car_park import CarPark
from safex.models.ensemble import probabilistic_ensemble
from safex.optimizers.cem import CEM
from safex.training.loggers import LocalLogger
from safex.training.loop import SeedRun, Trainer
from safex.types import Array


@dataclasses.dataclass(frozen=True)
class PolicySearch:
    """`action = tanh(10 (obs, 1) gains)`, gains `[D + 1, A]` in [-1, 1].

    Its state is that of the model and of the search, whose mean are the gains.
    """

    env: types.Environment
    model: types.DynamicsModel
    search: CEM
    beta: Array
    length: int = 100
    push_steps: float = 2.0

    def init(self, key: Array) -> Any:
        """Does nothing yet."""
        return self.model.init(key), self.search.init(key)

    def begin_episode(self, key: Array, state: Any) -> Any:
        """Has nothing to forget."""
        return state

    def act(self, key: Array, state: Any, obs: Array, *, explore: bool) -> tuple:
        """Follows its policy."""
        action = self._policy(state[1].mean, obs)
        belief = self.predict(state, obs, action)._asdict()
        return state, action, {f"prediction/{name}": belief[name] for name in belief}

    def observe(self, state: Any, transition: types.Transition) -> Any:
        """Learns nothing within an episode."""
        return state

    def update(self, key: Array, state: Any, data: types.Dataset) -> tuple:
        """Fits the model, then searches in it from where the first episode began."""
        fit_key, search_key = jax.random.split(key)
        model, metrics = self.model.fit(fit_key, state[0], data)
        move = self._move(model)

        def imagined(gains: Array) -> types.Score:
            def step(obs: Array, eta: Array) -> tuple[Array, tuple]:
                action = self._policy(gains, obs)
                triple = (obs, action, move(obs, action, eta).next_obs)
                told = (self.env.reward, self.env.cost, self.env.margin)
                return triple[2], tuple(function(*triple) for function in told)

            etas = jnp.ones((self.length, self.env.obs_dim))
            etas = etas * rollout.affordable(etas, self.push_steps)
            start = data.transitions.obs[0]
            _, (reward, cost, margin) = jax.lax.scan(step, start, etas)
            return types.Score(reward.mean(), cost.sum(0), margin.max(0))

        rule = constrain(FeasibleFirst())
        found, plan, _ = self.search.optimize(search_key, state[1], imagined, rule)
        return (model, found), metrics | {"policy/feasible": plan.feasible}

    def predict(self, state: Any, obs: Array, action: Array) -> types.Prediction:
        """What its model says."""
        return self.model.predict(state[0], obs, action)

    def band(self, state: Any, obs: Array, actions: Array) -> tuple:
        """Nothing pushes, all is pushed up, all is pushed down."""
        ways = jnp.array([0.0, 1.0, -1.0])[:, None, None]
        etas = ways * jnp.ones((len(actions), self.env.obs_dim))
        follow = jax.vmap(rollout.trajectory, (None, None, None, 0))
        paths = follow(self._move(state[0]), obs, actions, etas)
        return paths[0], paths.min(0), paths.max(0)

    def test_rows(self, data: types.Dataset) -> Array:
        """Rows that the model has never seen."""
        return self.model.test_rows(data)

    def _policy(self, gains: Array, obs: Array) -> Array:
        return jnp.tanh(10.0 * jnp.append(obs, 1.0) @ gains)

    def _move(self, model: Any) -> Any:
        width = self.beta
        return rollout.hallucinated_transition(self.model, model, self.env, width, 0.0)


ICE = CarPark.from_config(static_friction=0.0, kinetic_friction=0.0)


def make_agent() -> PolicySearch:
    """With an ensemble for its model."""
    network = config.EnsembleConfig(num_training_steps=500, features=(32, 32))
    model = probabilistic_ensemble(2, 1, network, config.CalibrationConfig())
    settings = config.CEMConfig(horizon=3, num_samples=100, num_elites=10, init_std=0.5)
    return PolicySearch(ICE, model, CEM(1, settings), beta=jnp.ones(2))


def main(folder: Path, episodes: int = 4) -> None:
    """Random steps, then episodes; the account of each is in `folder/metrics.csv`."""
    amounts = config.TrainConfig(episodes, 100, 100, val_buffer_size=20)
    trainer = Trainer(ICE, make_agent(), amounts, horizon=1, warn=print, report=print)
    trainer.train([SeedRun(0, 0, folder, lambda step: [LocalLogger(folder, step)])])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
