"""Environments that one process steps, and the process itself.

`main` serves a `Block` over an inherited socket: a command in, an answer out, until the
other end closes, as it also does when the process that holds it is killed. Nothing here
imports JAX: a worker starts fast and stays small.
"""

import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safex.envs.suites.adapter import Adapted
from safex.errors import SafexError, SimulatorError

Make = Callable[[], Adapted]
Floats = npt.NDArray[np.float32]
Seeds = npt.NDArray[np.uint32]


class Facts(NamedTuple):
    """What is fixed about an environment.

    Attributes:
      name: of the task.
      obs_dim: D.
      action_dim: A.
      max_steps: time limit of an episode [steps].
      costs: names of its C constraints.
    """

    name: str
    obs_dim: int
    action_dim: int
    max_steps: int
    costs: tuple[str, ...]


class Outcome(NamedTuple):
    """One step of n environments.

    Attributes:
      obs: `[n, D]` what to act on next: the first observation of a new episode where
        one has ended.
      reward: `[n]`.
      cost: `[n, C]`.
      next_obs: `[n, D]` the last observation of the step, before any reset.
      terminated: `[n]` bool.
      truncated: `[n]` bool.
    """

    obs: Floats
    reward: Floats
    cost: Floats
    next_obs: Floats
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]


class Failure(NamedTuple):
    """An error on its way to another process.

    Attributes:
      kind: name of a class in `safex.errors`.
      message: of the error.
      details: the traceback.
    """

    kind: str
    message: str
    details: str


def facts(make: Make) -> Facts:
    """Makes one environment, steps it once and closes it.

    So a missing cost shows before anything is computed.

    Raises:
      SafexError: the environment does not keep the contract.
      SimulatorError: it failed otherwise.
    """
    block = Block(make, 1)
    try:
        (env,) = block.envs
        found = facts_of(env)
        history = np.zeros((1, 1, found.action_dim), np.float32)
        block.begin(np.zeros(1, np.uint32), np.ones(1, np.int32), history)
    finally:
        block.close()
    return found


def facts_of(env: Adapted) -> Facts:
    """What is fixed about an environment."""
    return Facts(
        name=env.name,
        obs_dim=_length(env.observation_space),
        action_dim=_length(env.action_space),
        max_steps=env.max_steps,
        costs=env.costs,
    )


class Block:
    """n environments, stepped one after the other in this process."""

    def __init__(self, make: Make, count: int) -> None:
        """Makes them.

        Raises:
          SafexError: an environment does not keep the contract.
          SimulatorError: it failed otherwise.
        """
        self._name = "an environment"
        self.envs: list[Adapted] = []
        for _ in range(count):
            self.envs.append(self._guarded(make))
            self._name = self.envs[0].name

    def begin(self, seeds: Seeds, steps: npt.NDArray[np.int32], past: Floats) -> Floats:
        """Begins an episode in each, and takes the steps that it already had.

        Args:
          seeds: `[n]` of the episodes.
          steps: `[n]` how many steps each has had.
          past: `[n, ..., A]` their actions.

        Returns:
          `[n, D]` the observations now.
        """
        rows = zip(self.envs, seeds, steps, past, strict=True)
        return np.stack([self._guarded(_begin, *row) for row in rows])

    def step(self, actions: Floats, next_seeds: Seeds) -> Outcome:
        """Steps each; one whose episode ends begins another with its next seed."""
        rows = zip(self.envs, actions, next_seeds, strict=True)
        stepped = [self._guarded(_step, *row) for row in rows]
        return Outcome(*map(np.array, zip(*stepped, strict=True)))

    def close(self) -> None:
        """Closes all environments."""
        for env in self.envs:
            env.close()
        self.envs = []

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Foreign errors become one that names the environment and where it was."""
        try:
            return call(*arguments)
        except SafexError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = traceback.format_exception_only(error)[-1].strip()
            raise SimulatorError(
                f"{self._name} failed: {what} ({frame.filename}, line {frame.lineno})"
            ) from error


def main(descriptor: int) -> None:
    """Answers commands until the other end is closed.

    Args:
      descriptor: of the socket.
    """
    # They reach all processes of a terminal or a job; the parent decides what ends.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with Connection(descriptor) as connection:
        try:
            make, count = connection.recv()
            answer, block = _answer(Block, make, count)
            connection.send(answer if block is None else "ready")
            while block is not None:
                method, *arguments = connection.recv()
                connection.send(_answer(getattr(block, method), *arguments)[0])
        except (EOFError, OSError):
            return  # nobody asks any more


def _answer(call: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """What to send, and what was returned, None where it failed."""
    try:
        result = call(*arguments)
    except SafexError as error:
        details = "".join(traceback.format_exception(error))
        return Failure(type(error).__name__, str(error), details), None
    return result, result


def _begin(env: Adapted, seed: np.uint32, steps: int, past: Floats) -> Floats:
    obs, _ = env.reset(seed=int(seed))
    for action in past[:steps]:
        obs = env.step(action)[0]
    return obs


def _step(env: Adapted, action: Floats, next_seed: np.uint32) -> tuple[Any, ...]:
    next_obs, reward, terminated, truncated, info = env.step(action)
    obs = next_obs
    if terminated or truncated:
        obs, _ = env.reset(seed=int(next_seed))
    return obs, np.float32(reward), info["costs"], next_obs, terminated, truncated


def _length(space: Any) -> int:
    return int(space.shape[0])
