"""Small gymnasium environments that keep or break the contract; they need no JAX."""

import os
import signal
from typing import ClassVar

import gymnasium
import numpy as np

from safex.envs.suites.adapter import Adapted

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)


class Slope(gymnasium.Env):
    """`x` moves by the action; past 1 it costs 1. It ends at 3, or as it is told.

    Args:
      six: says the cost as the third of six values.
      breaks: what goes wrong in the third step.
    """

    observation_space = BOX
    action_space = gymnasium.spaces.Box(-2.0, 4.0, (1,), np.float64)

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        six=False,
        breaks=None,
        action_space=None,
        obs_space=None,
        render_mode=None,
    ):
        self.render_mode = render_mode
        self.six, self.breaks = six, breaks
        self.action_space = action_space or self.action_space
        self.observation_space = obs_space or self.observation_space
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 0), 0
        return self._obs(), {}

    def step(self, action):
        self.taken.append(np.array(action))
        self.x += 0.1 * float(action[0])
        self.t += 1
        cost = float(self.x > 1)
        info = {"cost_past": cost}
        if self.t == 3:
            self._break(info)
        if self.breaks == "nan" and self.t == 3:
            return np.array([np.nan, 0.0]), 0.0, False, False, {"cost": 0.0}
        reward, terminated = -abs(self.x), self.x > 3
        if self.six:
            return self._obs(), reward, cost, terminated, False, info
        if self.breaks != "no cost":
            info["cost"] = -1.0 if self.breaks == "negative" else cost
        return self._obs(), reward, terminated, False, info

    def _break(self, info):
        if self.breaks == "raise":
            raise RuntimeError("the spring broke")
        if self.breaks == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def render(self):
        """A bar from -4 to `x`, of 4."""
        frame = np.zeros((64, 128, 3), np.uint8)
        frame[:, : int(128 * (self.x + 4) / 8)] = 255
        return frame

    def _obs(self):
        return np.array([self.x, self.t / 10])


def make(max_steps=6, costs=("cost",), **how):
    return Adapted(Slope(**how), name="Slope", max_steps=max_steps, costs=costs)


# Under two names, `foreign` and `tests.foreign`, this module may come twice.
if "Slope-v0" not in gymnasium.registry:
    gymnasium.register("Slope-v0", entry_point=Slope, max_episode_steps=9)
    gymnasium.register("Endless-v0", entry_point=Slope)
    gymnasium.register(
        "Costless-v0",
        entry_point=Slope,
        kwargs={"breaks": "no cost"},
        max_episode_steps=9,
    )
