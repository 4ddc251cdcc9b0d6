"""A loop of one's own: act, observe, update, without a launcher or a `Trainer`.

For a notebook, a robot's own loop or any simulator: whoever calls decides when a step
is taken, when an episode begins and when there is time to learn. What the loop keeps
(the agent, all experience, which random numbers were used) is one pytree that goes in
and comes out.

    loop = ManualLoop(env, agent, capacity=1000)
    state = loop.begin(loop.init(seed=0))
    state, action, info = loop.act(state, obs)
    state = loop.observe(state, obs=obs, action=action, reward=reward, cost=cost, ...)
    state, metrics = loop.update(state)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from safex.errors import ContractError, NonFiniteError, SafexError
from safex.types import Agent, Array, Dataset, Environment, Metrics, PyTree, Transition


class ManualState(NamedTuple):
    """Everything that the next call depends on; arrays only, fit for a checkpoint.

    Attributes:
      agent: the agent's state.
      data: all experience.
      seed: `[]` uint32 decides every random number.
      round: `[]` int32 which of its random numbers are in use: a new one begins with an
        episode, and after an update.
      step: `[]` int32 steps taken in it.
    """

    agent: PyTree
    data: Dataset
    seed: Array
    round: Array
    step: Array


class ManualLoop:
    """An agent with its memory, for a loop that somebody else turns.

    Random numbers are those of a `Trainer`: with one update after each episode, the
    first of which is explored, the same seed gives the same run.

    Args:
      env: sizes, and what the agent knows of the task; it is never stepped.
      agent: the agent.
      capacity: most transitions kept. A fit costs the same however few there are.

    Raises:
      ValueError: the capacity is below 1.
    """

    def __init__(self, env: Environment, agent: Agent, *, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self.env, self.agent, self.capacity = env, agent, capacity
        self._shapes = {
            "obs": (env.obs_dim,),
            "action": (env.action_dim,),
            "reward": (),
            "cost": (env.num_constraints,),
            "next_obs": (env.obs_dim,),
            "terminated": (),
            "truncated": (),
        }
        # Compiled once for all calls of this loop.
        self._begin = jax.jit(self._begun)
        self._act = jax.jit(self._acted)
        self._explore = jax.jit(self._explored)
        self._observe = jax.jit(self._observed)
        self._update = jax.jit(self._updated)

    def init(self, seed: int) -> ManualState:
        """A state that has seen nothing.

        Args:
          seed: decides every random number.
        """
        root = jax.random.key(seed)

        def empty(shape: tuple[int, ...]) -> Array:
            return jnp.zeros((self.capacity, *shape))

        no = jnp.zeros(self.capacity, bool)
        buffers = {name: empty(shape) for name, shape in self._shapes.items()}
        transitions = Transition(**buffers | {"terminated": no, "truncated": no})
        zero = jnp.zeros((), jnp.int32)
        return ManualState(
            agent=self.agent.init(jax.random.fold_in(root, 0)),
            data=Dataset(transitions, zero),
            seed=jnp.asarray(seed, jnp.uint32),
            round=zero,
            step=zero,
        )

    def begin(self, state: ManualState) -> ManualState:
        """Begins an episode: what the last one has spent and planned is over."""
        return self._begin(state)

    def act(
        self, state: ManualState, obs: npt.ArrayLike
    ) -> tuple[ManualState, np.ndarray, Metrics]:
        """The agent's action.

        Args:
          state: the loop's.
          obs: `[D]` what the sensors say.

        Returns:
          next state, action `[A]` in [-1, 1], and what the agent says of its decision.

        Raises:
          ContractError: the observation has another shape.
          NonFiniteError: the observation or the action is not finite.
        """
        obs = self._checked("obs", obs)
        agent, action, info = self._act(state, obs)
        return state._replace(agent=agent), self._checked("action", action), info

    def explore(self, state: ManualState) -> np.ndarray:
        """`[A]` an action that is uniform in [-1, 1], for before the first fit."""
        return np.asarray(self._explore(state))

    def observe(
        self,
        state: ManualState,
        *,
        obs: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: npt.ArrayLike,
        cost: npt.ArrayLike | None,
        next_obs: npt.ArrayLike,
        terminated: bool = False,
        truncated: bool = False,
    ) -> ManualState:
        """Remembers what a step led to.

        Args:
          state: the loop's.
          obs: `[D]` before the step.
          action: `[A]` that was really executed, be it the agent's or not.
          reward: `[]` of the step.
          cost: `[C]` of the step, or a number if C is 1.
          next_obs: `[D]` after the step, before any reset.
          terminated: the task itself ended.
          truncated: only a time limit ended the episode.

        Raises:
          ContractError: something is None or has another shape.
          NonFiniteError: something is not finite.
          SafexError: the memory is full.
        """
        if int(state.data.size) >= self.capacity:
            raise SafexError(
                f"the loop's memory of {self.capacity} transitions is full: make it "
                "with a larger capacity"
            )
        values = (obs, action, reward, cost, next_obs, terminated, truncated)
        fields = [
            self._checked(name, value)
            for name, value in zip(Transition._fields, values, strict=True)
        ]
        return self._observe(state, *fields)

    def update(self, state: ManualState) -> tuple[ManualState, Metrics]:
        """Lets the agent learn from all that was observed.

        At any time, also within an episode. A learned model wants some 50 transitions
        at least, so that it has some to calibrate itself on.

        Returns:
          next state and what the agent says of its fit.

        Raises:
          SafexError: nothing was observed yet.
          NonFiniteError: a loss or a parameter is not finite; the state that was given
            is as good as before.
        """
        if int(state.data.size) == 0:
            raise SafexError("nothing to learn from: call observe() before update()")
        new, metrics = self._update(state)
        named = {f"metrics/{name}": value for name, value in metrics.items()}
        for path, leaf in jax.tree_util.tree_leaves_with_path(new.agent):
            named[f"agent{jax.tree_util.keystr(path)}"] = leaf
        # Keys have no numbers to look at.
        numbers = {
            name: value
            for name, value in named.items()
            if jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating)
        }
        for name, value in jax.device_get(numbers).items():
            _require_finite(name, value)
        return new, metrics

    def violating_steps(self, state: ManualState) -> int:
        """Steps so far with a cost under any constraint."""
        return int((state.data.transitions.cost > 0).any(-1).sum())

    def _checked(self, name: str, value: npt.ArrayLike | None) -> np.ndarray:
        shape = self._shapes[name]
        if value is None:
            raise ContractError(
                f"the step has no {name}: every step must say it, a missing cost is "
                "never taken for zero"
            )
        flag = name in ("terminated", "truncated")
        array = np.asarray(value, bool if flag else np.float32)
        if name == "cost" and shape == (1,):
            array = np.atleast_1d(array)
        if array.shape != shape:
            raise ContractError(f"{name} must have shape {shape}, got {array.shape}")
        _require_finite(name, array)
        return array

    def _begun(self, state: ManualState) -> ManualState:
        # Two episodes between updates must not share their random numbers.
        used = (state.step > 0).astype(jnp.int32)
        state = state._replace(round=state.round + used, step=jnp.zeros_like(used))
        _, begin_key, _ = jax.random.split(_keys(state)[0], 3)
        return state._replace(agent=self.agent.begin_episode(begin_key, state.agent))

    def _acted(self, state: ManualState, obs: Array) -> tuple[PyTree, Array, Metrics]:
        return self.agent.act(_step_key(state), state.agent, obs, explore=True)

    def _explored(self, state: ManualState) -> Array:
        shape = (self.env.action_dim,)
        return jax.random.uniform(_step_key(state), shape, minval=-1.0, maxval=1.0)

    def _observed(self, state: ManualState, *fields: Array) -> ManualState:
        transition, row = Transition(*fields), state.data.size
        transitions = jax.tree.map(
            lambda buffer, value: buffer.at[row].set(value),
            state.data.transitions,
            transition,
        )
        return state._replace(
            agent=self.agent.observe(state.agent, transition),
            data=Dataset(transitions, row + 1),
            step=state.step + 1,
        )

    def _updated(self, state: ManualState) -> tuple[ManualState, Metrics]:
        update_key, _, _ = jax.random.split(_keys(state)[1], 3)
        agent, metrics = self.agent.update(update_key, state.agent, state.data)
        new = state._replace(
            agent=agent, round=state.round + 1, step=jnp.zeros_like(state.step)
        )
        return new, metrics


def _keys(state: ManualState) -> tuple[Array, Array]:
    """Of acting and learning in this round, as a `Trainer` has them of an episode."""
    root = jax.random.key(state.seed)
    key = jax.random.fold_in(jax.random.fold_in(root, 1), state.round)
    act_key, update_key = jax.random.split(key)
    return act_key, update_key


def _step_key(state: ManualState) -> Array:
    _, _, step_key = jax.random.split(_keys(state)[0], 3)
    act_key, _ = jax.random.split(jax.random.fold_in(step_key, state.step))
    return act_key


def _require_finite(name: str, value: np.ndarray) -> None:
    bad = np.count_nonzero(~np.isfinite(value))
    if bad:
        raise NonFiniteError(f"{name} is not finite: {bad} of {value.size} numbers")
