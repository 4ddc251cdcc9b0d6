"""An agent of one's own: it goes only as fast as it can still brake, as it believes.

    python examples/own_agent.py

It parks the car of `safex/CarPark-v0` in front of a wall and learns its friction on the
way. It plans no sequence: of some random actions it takes the best after which the
backup would still keep every limit, wherever the model may err. Loop, checkpoints and
account are those of every other agent, because `Trainer` knows no more of it than
`Agent` says.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from safex import config, rollout, types
from safex.envs.car_park import CarPark
from safex.models.ensemble import probabilistic_ensemble
from safex.training.loggers import LocalLogger
from safex.training.loop import SeedRun, Trainer
from safex.types import Array, DynamicsModel, PyTree


@dataclasses.dataclass(frozen=True)
class BrakingAgent:
    """Random shooting over one action; its state is that of the model.

    An action is worth the reward of what would follow if the backup acted from then on
    for `terminal.steps`. The model may be wrong by `beta` of its stds for three steps,
    all towards more or all towards less.
    """

    env: types.Environment
    model: DynamicsModel
    beta: Array
    terminal: config.TerminalConfig = config.TerminalConfig(30, "backup")

    def init(self, key: Array) -> PyTree:
        """Knows nothing yet."""
        return self.model.init(key)

    def begin_episode(self, key: Array, state: PyTree) -> PyTree:
        """Has nothing to forget."""
        return state

    def act(self, key: Array, state: PyTree, obs: Array, *, explore: bool) -> tuple:
        """Takes the best action that it can answer for, else the backup's."""
        tried = jax.random.uniform(key, (30, self.env.action_dim), minval=-1.0)
        tried = jnp.vstack([self.env.backup(obs), tried])
        move, ways = self._imagined(state, 1 + self.terminal.steps)
        judge = partial(rollout.evaluate, self.env, move, obs, terminal=self.terminal)
        score = jax.vmap(jax.vmap(judge, (None, 0)), (0, None))(tried[:, None], ways)
        safe = (score.margin <= 0).all((1, 2))
        best = jnp.argmax(jnp.where(safe, score.value[:, 0], -jnp.inf))
        belief = self.predict(state, obs, tried[best])._asdict()
        info = {f"prediction/{name}": value for name, value in belief.items()}
        return state, tried[best], info | {"plan/feasible": safe[best]}

    def observe(self, state: PyTree, transition: types.Transition) -> PyTree:
        """Learns nothing within an episode."""
        return state

    def update(self, key: Array, state: PyTree, data: types.Dataset) -> tuple:
        """Fits its model."""
        return self.model.fit(key, state, data)

    def predict(self, state: PyTree, obs: Array, action: Array) -> types.Prediction:
        """What its model says."""
        return self.model.predict(state, obs, action)

    def band(self, state: PyTree, obs: Array, actions: Array) -> tuple:
        """Of the three ways in which the model may be wrong."""
        move, ways = self._imagined(state, len(actions))
        paths = jax.vmap(partial(rollout.trajectory, move, obs, actions))(ways)
        return paths[0], paths.min(0), paths.max(0)

    def test_rows(self, data: types.Dataset) -> Array:
        """Rows that the model has never seen."""
        return self.model.test_rows(data)

    def _imagined(self, state: PyTree, length: int) -> tuple:
        """How a push moves the system; no push, all pushed up, all pushed down."""
        signs = jnp.array([0.0, 1.0, -1.0])[:, None, None] * jnp.ones(self.env.obs_dim)
        pushed = jnp.arange(length)[:, None] < 3
        parts = self.model, state, self.env, self.beta, 0.0
        return rollout.hallucinated_transition(*parts), rollout.Push(signs * pushed)


def main(folder: Path, model: DynamicsModel | None = None, episodes: int = 3) -> None:
    """Random steps, then episodes; the account of each is in `folder/metrics.csv`."""
    env, calibration = CarPark.from_config(), config.CalibrationConfig()
    network = config.EnsembleConfig(num_training_steps=500, features=(32, 32))
    model = model or probabilistic_ensemble(2, 1, network, calibration)
    agent = BrakingAgent(env, model, beta=jnp.full(2, 2.0))
    amounts = config.TrainConfig(episodes, 100, 100, val_buffer_size=20)
    trainer = Trainer(env, agent, amounts, horizon=1, warn=print, report=print)
    trainer.train([SeedRun(0, 0, folder, lambda step: [LocalLogger(folder, step)])])


if __name__ == "__main__":
    main(Path("results/own_agent"))
