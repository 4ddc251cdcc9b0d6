"""One contract for environments of other packages.

Observations are float32 vectors and finite, actions live in [-1, 1], each step says its
cost, and termination and time limit stay apart.
"""

import difflib
import importlib.util
from collections.abc import Collection, Iterable
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt

from safex.errors import ConfigError, ContractError, NonFiniteError

Vector = npt.NDArray[np.float32]
INSTALL = (
    "run `make install-suites`, or `pip install --no-deps -r requirements-suites.txt` "
    "in an environment that has safex (docs/suites.md)"
)


def require_package(module: str, suite: str) -> None:
    """Refuses to go on without a package.

    Raises:
      ConfigError: it is not installed; says how it is.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{suite} needs {module}, which is not installed: {INSTALL}")


def unknown_task(suite: str, task: str, known: Iterable[str]) -> ConfigError:
    """The error that says which task may have been meant."""
    close = difflib.get_close_matches(task, list(known), n=3)
    hint = f", did you mean {' or '.join(close)}?" if close else ""
    return ConfigError(f"{suite} has no task {task!r}{hint}")


class Adapted(gymnasium.Env[Vector, Vector]):
    """An environment of another package that keeps safex's contract.

    `step` takes six values (the third being the cost) or five with `info["cost"]`. Its
    info has `cost`, the environment's own total, and `costs` `[C]`, those asked for.

    Attributes:
      name: of the task, for messages.
      max_steps: time limit of an episode [steps], counted here.
      costs: names of its C constraints.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 30,
    }

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        name: str,
        max_steps: int | None,
        costs: tuple[str, ...] = ("cost",),
        sometimes: Collection[str] = (),
    ) -> None:
        """Wraps an environment.

        Args:
          env: the environment; it may have a time limit of its own.
          name: of the task.
          max_steps: time limit of an episode [steps].
          costs: names of costs in the info; "cost" is the environment's total.
          sometimes: those that the environment only says where they are not zero.

        Raises:
          ContractError: its spaces are no vectors, or no time limit is known.
        """
        self.name = name
        self.max_steps = _horizon(name, max_steps)
        self.costs = costs
        self._sometimes = frozenset(sometimes)
        self._env = env
        self._steps: int | None = None  # of the running episode
        size = _vector_size(name, "observation", env.observation_space)
        self._low, self._high = _action_bounds(name, env.action_space)
        self._unit = bool(np.all(self._low == -1) and np.all(self._high == 1))
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (size,), np.float32
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._low.shape, np.float32)
        self.render_mode = env.render_mode
        fps = env.metadata.get("render_fps") or self.metadata["render_fps"]
        self.metadata = {**type(self).metadata, "render_fps": fps}  # type: ignore[misc]

    @property
    def foreign(self) -> gymnasium.Env[Any, Any]:
        """The environment itself, without any wrapper."""
        return self._env.unwrapped

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Begins an episode.

        Args:
          seed: settles all that is random in it; None goes on with what there is.
          options: handed on.

        Returns:
          The observation `[D]`, and the environment's info.

        Raises:
          NonFiniteError: the observation is not finite.
        """
        obs, info = self._env.reset(seed=seed, options=options)
        self._steps = 0
        return self._finite("observation", obs), info

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Advances one step.

        Args:
          action: `[A]`, clipped to [-1, 1].

        Returns:
          Observation `[D]`, reward, terminated, truncated, and an info with `cost` and
          `costs`.

        Raises:
          ContractError: the step says no cost, or a negative one.
          NonFiniteError: action, observation, reward or a cost is not finite.
          ResetNeeded: no episode runs.
        """
        if self._steps is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        stepped: tuple[Any, ...] = self._env.step(self._scaled(action))
        obs, reward, terminated, truncated, info = _five(stepped)
        self._steps += 1
        costs = self._costs(info)
        result = (
            self._finite("observation", obs),
            float(self._finite("reward", reward)),
            bool(terminated),
            bool(truncated) or self._steps >= self.max_steps,
            {**info, "costs": costs},
        )
        if result[2] or result[3]:
            self._steps = None
        return result

    def render(self) -> npt.NDArray[np.uint8]:
        """Draws the present state, `[height, width, 3]`.

        Raises:
          ConfigError: it was made without frames, or this machine cannot draw them.
        """
        if self.render_mode != "rgb_array":
            raise ConfigError(
                f"environment {self.name} draws nothing: make it with render_mode="
                "'rgb_array'"
            )
        try:
            frame = self._env.render()
        except Exception as error:  # whatever the driver below raises
            raise ConfigError(
                f"this machine cannot draw {self.name} ({error}): a task of MuJoCo "
                "draws without a screen if MUJOCO_GL is egl (needs libegl1) or osmesa "
                "(needs libosmesa6) before Python starts"
            ) from error
        return np.asarray(frame, np.uint8)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _scaled(self, action: Vector) -> npt.NDArray[Any]:
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"action of {self.name} must have shape {self.action_space.shape}, "
                f"got {action.shape}"
            )
        clipped = np.clip(self._finite("action", action), -1.0, 1.0)
        scaled = clipped.astype(np.float64)
        if not self._unit:  # else the same numbers, to the last place
            scaled = self._low + (scaled + 1) / 2 * (self._high - self._low)
        return scaled.astype(self._env.action_space.dtype)

    def _costs(self, info: dict[str, Any]) -> Vector:
        costs = np.array([self._cost(info, name) for name in self.costs], np.float32)
        if (self._finite("cost", costs) < 0).any():
            raise ContractError(
                f"environment {self.name} gives a negative cost, {costs.tolist()} of "
                f"{self.costs}: a cost says how much is violated, 0 being nothing"
            )
        return costs

    def _cost(self, info: dict[str, Any], name: str) -> Any:
        # The total shows that this step says its costs at all.
        if "cost" not in info:
            raise ContractError(
                f"environment {self.name} gives no cost: every step must say it, as "
                "info['cost'] or as the third of six values, a missing cost is never "
                "taken for zero. Wrap the environment so that it does (docs/suites.md)"
            )
        if name not in info and name not in self._sometimes:
            said = sorted(key for key in info if key.startswith("cost"))
            raise ContractError(
                f"environment {self.name} gives no cost {name!r}, it says {said}"
            )
        return info.get(name, 0.0)

    def _finite(self, what: str, value: Any) -> Vector:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            array = np.asarray(value, np.float32)
        if not np.isfinite(array).all():
            raise NonFiniteError(
                f"environment {self.name}: the {what} of step {self._steps} is not "
                f"finite: {array.tolist()}"
            )
        return array


def _five(stepped: tuple[Any, ...]) -> tuple[Any, ...]:
    """Six values made five, their cost put into the info."""
    if len(stepped) != 6:
        return stepped
    obs, reward, cost, terminated, truncated, info = stepped
    return obs, reward, terminated, truncated, {**info, "cost": cost}


def _horizon(name: str, max_steps: int | None) -> int:
    if max_steps is None:
        raise ContractError(
            f"environment {name} has no fixed horizon, which a budget per episode is "
            "counted over: say it in env.max_steps"
        )
    return max_steps


def _vector_size(name: str, what: str, space: gymnasium.Space[Any]) -> int:
    """Length of the vectors of a space."""
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        advice = (
            "agents here are for continuous actions"
            if isinstance(space, gymnasium.spaces.Discrete)
            else "flatten it, as gymnasium's FlattenObservation does"
        )
        raise ContractError(
            f"environment {name} has the {what} space {space}, it must be a Box of "
            f"one axis: {advice}"
        )
    return space.shape[0]


def _action_bounds(
    name: str, space: gymnasium.Space[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    _vector_size(name, "action", space)
    assert isinstance(space, gymnasium.spaces.Box)
    if not space.is_bounded():
        raise ContractError(
            f"environment {name} has actions without bounds, {space}: they cannot be "
            "scaled from [-1, 1]"
        )
    return space.low.astype(np.float64), space.high.astype(np.float64)
