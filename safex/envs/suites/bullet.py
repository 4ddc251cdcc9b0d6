"""Bullet-Safety-Gym 1.4.0: its tasks, made repeatable.

It imports on today's gymnasium as it is. But its `reset` ignores the seed, starts from
what the episode before left behind, and boxes move by the clock on the wall.
`Repeatable` mends that. Physics, rewards and costs are the package's own.
"""

import contextlib
import importlib
import os
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from safex.config.suites import BulletSafetyGymConfig
from safex.envs.suites.adapter import Adapted, require_package, unknown_task

ROBOTS = ("Ball", "Car", "Drone", "Ant")
TASKS = ("Circle", "Run", "Reach", "Gather")
IDS = tuple(f"Safety{robot}{task}-v0" for task in TASKS for robot in ROBOTS)
# Costs that the task's info has only where they are not zero.
SOMETIMES = {
    "Circle": ("cost_outside_bounds",),
    "Run": ("cost_outside_bounds", "cost_velocity_violation"),
    "Reach": (),
    "Gather": (),
}


def open_task(
    settings: BulletSafetyGymConfig, *, render_mode: str | None = None
) -> Adapted:
    """A task behind safex's contract.

    Args:
      settings: which, and how.
      render_mode: "rgb_array" for frames, drawn on the CPU; None for none.

    Raises:
      ConfigError: the package is not installed, or has no such task.
    """
    for module in ("bullet_safety_gym", "pybullet"):
        require_package(module, "Bullet-Safety-Gym")
    if settings.id not in IDS:
        raise unknown_task("Bullet-Safety-Gym", settings.id, IDS)
    _import_builder()  # registers the tasks
    limit = gymnasium.spec(settings.id).max_episode_steps
    task = next(task for task in TASKS if task in settings.id)
    return Adapted(
        Repeatable(settings.id, render_mode),
        name=settings.id,
        max_steps=settings.max_steps or limit,
        costs=settings.costs,
        sometimes=SOMETIMES[task],
    )


def _import_builder() -> Any:
    """The module that builds the tasks; importing it registers them.

    The package hides PyBullet's greetings in a way that needs streams of the standard
    kind (those of a notebook or of tests are not), and leaves a file open for each task
    that it builds: here it is done around it.
    """
    with _silence():
        builder: Any = importlib.import_module("bullet_safety_gym.envs.builder")
    builder.RedirectStream = contextlib.nullcontext
    numpy = types.ModuleType("numpy")
    vars(numpy).update(vars(np))
    vars(numpy)["random"] = DRAWS
    for name in ("agents", "bases", "tasks", "worlds"):
        vars(importlib.import_module(f"bullet_safety_gym.envs.{name}"))["np"] = numpy
    vars(importlib.import_module("bullet_safety_gym.envs.bases"))["time"] = CLOCK
    return builder


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing is printed, not by C either."""
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.open(os.devnull, os.O_WRONLY), "w"))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(nowhere.fileno(), descriptor)
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


class Clock:
    """Stands in for the module `time`, where boxes look how far they have moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """Simulated seconds since the episode began."""
        return self.now


class Draws:
    """Stands in for `numpy.random`: draws from the environment that runs."""

    def __init__(self) -> None:
        self.generator = np.random.RandomState(0)

    def __getattr__(self, name: str) -> Any:
        """A method of the generator."""
        return getattr(self.generator, name)


# The package's modules are shared by all environments of a process.
CLOCK, DRAWS = Clock(), Draws()


class Repeatable(gymnasium.Env[Any, Any]):
    """A task whose episode is a function of seed and actions alone.

    - It draws from NumPy's global generator, and is given one of its own.
    - A reset leaves the motors the targets of their last action: they are set to rest.
    - Contacts of the reset world come from where things were before: it is reset twice
      with the same draws, so that these are its own.
    - Boxes circle by the clock on the wall: they circle by simulated time.
    - The goals of Reach alternate: each episode begins with the same one.
    """

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        """Builds the task.

        Args:
          task: its id.
          render_mode: "rgb_array" or None.
        """
        _import_builder()
        self._generator = np.random.RandomState(0)
        self._now = 0.0
        before = random.getstate()  # how a box is turned; drawn once, at building
        random.seed(0)
        self._take_turn()
        with _silence(), np.errstate(over="ignore"):  # of bounds that it casts
            env: Any = gymnasium.make(task, disable_env_checker=True).unwrapped
            env.reset()  # its outcome is kept, and what no later reset sets is from it
        random.setstate(before)
        self._env = env
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / self._env.dt}

    @property
    def unwrapped(self) -> gymnasium.Env[Any, Any]:
        """The package's own environment."""
        env: gymnasium.Env[Any, Any] = self._env
        return env

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; None goes on with the random numbers."""
        if seed is not None:
            self._generator = np.random.RandomState(seed)
        begin = self._generator.get_state()
        for _ in range(2):
            self._generator.set_state(begin)
            self._now = 0.0
            self._take_turn()
            outcome: tuple[Any, dict[str, Any]] = self._reset_once()
        return outcome

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's own."""
        self._now += self._env.dt
        self._take_turn()
        stepped: tuple[Any, Any, bool, bool, dict[str, Any]] = self._env.step(action)
        return stepped

    def render(self) -> Any:
        """A frame `[height, width, 3]`."""
        return self._env.render("rgb_array")

    def close(self) -> None:
        """Ends the simulation."""
        self._env.close()

    def _reset_once(self) -> tuple[Any, dict[str, Any]]:
        env = self._env
        if hasattr(env.task, "switch_flag"):
            env.task.switch_flag = False
        for motor in env.agent.motor_list:
            motor.set_velocity(0.0)
        for obstacle in env.obstacles:
            obstacle.movement_offset = self._generator.uniform(0, 2 * np.pi)
        outcome: tuple[Any, dict[str, Any]] = env.reset()
        return outcome

    def _take_turn(self) -> None:
        """What the package draws and the time it sees are this environment's."""
        DRAWS.generator, CLOCK.now = self._generator, self._now
