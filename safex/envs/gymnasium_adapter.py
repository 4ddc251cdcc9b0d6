"""A pure JAX system as a `gymnasium.Env`.

The system stays the only definition of dynamics, reward and cost. The adapter keeps its
state and its key, and turns arrays into what gymnasium's API asks for.
"""

import importlib
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import gymnasium
import jax
import numpy as np

from safex.envs import rendering
from safex.types import Array, Environment, Step


class GymnasiumSystem(Environment, Protocol):
    """What the adapter needs of a system besides stepping it."""

    @property
    def params(self) -> Any:
        """Its parameters, among them `dt`, the time of one step [s]."""
        ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """Fields of its state that an episode can be made to begin at."""
        ...

    @property
    def state_at(self) -> Callable[..., Any]:
        """Maps a value of each of `state_names` to the state of a new episode."""
        ...

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, `[D]` each."""
        ...


class JaxEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Any pure JAX system behind gymnasium's API.

    Actions live in the box [-1, 1]. `step` tells in its info the `costs` `[C]` of all
    constraints and their signed distances past the limits, `margins` `[C]`, each in its
    limit's own unit (> 0 violates); `cost` is the sum of the first and `margin` the
    largest of the second. The system truncates itself at its `max_steps`. An episode
    may be stepped on after it has ended, as evaluations of a fixed length do.

    Attributes:
      system: the system; a pytree, so two of the same type share one compilation.
      overlay: lines of text on every frame, to be set at any time.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "human"],
        "render_fps": 20,
    }

    def __init__(
        self, system: GymnasiumSystem, *, render_mode: str | None = None
    ) -> None:
        """Wraps a system.

        Args:
          system: the system.
          render_mode: "rgb_array" for frames, "human" for a window, None for neither.

        Raises:
          ValueError: the render mode is unknown.
        """
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(
                f"render_mode must be None or one of {modes}, got {render_mode!r}"
            )
        self.system = system
        self.render_mode = render_mode
        self.overlay: Sequence[str] = ()
        fps = max(1, round(1.0 / float(system.params.dt)))
        self.metadata = {**type(self).metadata, "render_fps": fps}  # type: ignore[misc]
        low, high = system.obs_bounds()
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(
            -1.0, 1.0, (system.action_dim,), np.float32
        )
        self._window = rendering.Window(type(system).__name__, fps)
        self._key: Array | None = None
        self._state: Any = None
        self._action: np.ndarray | None = None

    @property
    def state(self) -> Any:
        """State of the system, None before the first reset."""
        return self._state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode.

        Args:
          seed: restarts the random numbers; None goes on with them.
          options: values of some of `system.state_names` to begin at. What is not named
            is drawn as always. An episode begun so shows its first observation without
            sensor noise.

        Returns:
          The observation `[D]` and an empty info.

        Raises:
          ValueError: an option is unknown, no number, or out of the system's range.
        """
        super().reset(seed=seed)
        key = jax.random.key(int(self.np_random.integers(2**32)))
        key, state, obs = _reset(self.system, key)
        if options:
            state = self._state_at(state, options)
            obs = self.system.observe(state)
        self._key, self._state, self._action = key, state, None
        self._show()
        return np.array(obs, np.float32), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advances one step.

        Args:
          action: `[A]` action, clipped to [-1, 1] by the system.

        Returns:
          Observation `[D]`, reward, terminated, truncated, and an info with `cost`,
          `costs`, `margin` and `margins` of the step.

        Raises:
          ValueError: the action has another shape than `[A]`, or is not finite.
          ResetNeeded: no episode has begun.
        """
        if self._key is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        self._action = self._checked(action)
        self._key, step, margins = _step(
            self.system, self._key, self._state, self._action
        )
        self._state = step.state
        self._show()
        obs, reward, costs, terminated, truncated, margins = jax.device_get(
            (*step[1:], margins)
        )
        info = {
            "cost": float(costs.sum()),
            "costs": np.array(costs, np.float32),
            "margin": float(margins.max()),
            "margins": np.array(margins, np.float32),
        }
        obs = np.array(obs, np.float32)
        return obs, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> np.ndarray | None:
        """Draws the present state.

        Returns:
          `[S, S, 3]` uint8 frame in the mode "rgb_array", None in every other.

        Raises:
          ResetNeeded: no episode has begun.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() does nothing, since render_mode is None: "
                f"choose one of {self.metadata['render_modes']}"
            )
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before render()")
        frame = rendering.draw(
            self.system, self._state, self._action, lines=self.overlay
        )
        if self.render_mode == "rgb_array":
            return frame
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Closes the window, where there is one."""
        self._window.close()

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()

    def _checked(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float32)
        shape = self.action_space.shape
        if action.shape != shape or not np.all(np.isfinite(action)):
            raise ValueError(
                f"action must be finite numbers of shape {shape}, "
                f"got {action.tolist()} of shape {action.shape}"
            )
        return action

    def _state_at(self, state: Any, options: dict[str, Any]) -> Any:
        """The drawn state with the fields of `options` in place of its own."""
        names = self.system.state_names
        unknown = sorted(set(options) - set(names))
        if unknown:
            raise ValueError(f"unknown reset options {unknown}, allowed: {list(names)}")
        for name, value in options.items():
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ValueError(
                    f"option {name} must be a finite number, got {value!r}"
                )
        values = {name: options.get(name, getattr(state, name)) for name in names}
        state = self.system.state_at(**values)
        obs = np.asarray(self.system.observe(state), np.float32)
        if not self.observation_space.contains(obs):
            raise ValueError(
                f"reset options {options} lie outside of the system: they give the "
                f"observation {obs.tolist()}, outside of {self.observation_space}"
            )
        return state


class RegisteredEnv(JaxEnv):
    """A system by its name, built from keyword arguments; what gymnasium makes."""

    def __init__(
        self, *, system: str, render_mode: str | None = None, **changes: Any
    ) -> None:
        """Builds the system and wraps it.

        Args:
          system: module and class, as in "safex.envs.pendulum:Pendulum".
          render_mode: as in `JaxEnv`.
          **changes: fields of the system's config.

        Raises:
          TypeError: a field is unknown.
          ValueError: a value is impossible.
        """
        module, name = system.split(":")
        made = getattr(importlib.import_module(module), name).from_config(**changes)
        super().__init__(made, render_mode=render_mode)


# The system is an argument, not a closure: compiled once for all of one type.
@jax.jit
def _reset(system: GymnasiumSystem, key: Array) -> tuple[Array, Any, Array]:
    key, reset_key = jax.random.split(key)
    return key, *system.reset(reset_key)


@jax.jit
def _step(
    system: GymnasiumSystem, key: Array, state: Any, action: Array
) -> tuple[Array, Step, Array]:
    key, step_key = jax.random.split(key)
    step = system.step(step_key, state, action)
    # Margins are a fact of the system, like its costs: no sensor noise in them.
    margins = system.margin(system.observe(state), action, system.observe(step.state))
    return key, step, margins
