"""Safety-Gymnasium 1.0.0 on today's Python, gymnasium, MuJoCo and NumPy.

The package was written in 2023 for versions that no longer install. Taken without its
dependencies it needs six repairs, each in one function below; its own files stay as
they are, and what is changed of others is put back after the import. The seventh change
makes a reset thirty times as fast:

1. Dataclasses have arrays as defaults, which Python 3.11 refuses: `_array_defaults`.
2. `vector`, `wrappers`, `utils.registration` and the multi-agent tasks import what
   gymnasium 1.0 has removed or what is not installed: `_stand_ins`. Its environments
   are therefore built here, from the specs that it registers.
3. Each task is also registered with gymnasium under a second name, through a wrapper
   that no longer works: `_unregistered`.
4. MuJoCo's bindings take no array as the index of a joint: `_joint_indices`.
5. NumPy makes no float of an array of one element: `_one_element_floats`.
6. gymnasium's off-screen viewer must be told its size: `_viewer_size`.
7. Each reset reads its assets again and decodes the six large pictures of the sky; they
   are read once, and the sky is plain: `_plain_sky`.

Layouts, physics, rewards and costs are the package's own.
"""

import contextlib
import copy
import ctypes.util
import dataclasses
import functools
import importlib
import os
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import gymnasium
import numpy as np

from safex.config.suites import SafetyGymnasiumConfig
from safex.envs.suites.adapter import Adapted, require_package, unknown_task
from safex.errors import ConfigError

# What a frame is drawn from: the whole arena for a robot that navigates.
CAMERAS = {"navigation": "fixednear", "velocity": "track"}
FRAME_SIZE = 480
# What MUJOCO_GL can say, and the system library that it takes.
DRIVERS = {"egl": "EGL", "osmesa": "OSMesa"}


class Spec(NamedTuple):
    """One task that the package registers.

    Attributes:
      entry_point: module and class.
      max_steps: its time limit [steps].
      arguments: of the class.
    """

    entry_point: str
    max_steps: int
    arguments: dict[str, Any]


# By id; filled by the package's own calls of `register`.
_SPECS: dict[str, Spec] = {}


def open_task(
    settings: SafetyGymnasiumConfig, *, render_mode: str | None = None
) -> Adapted:
    """A task behind safex's contract, its layout drawn anew at each reset.

    Args:
      settings: which, and how.
      render_mode: "rgb_array" for frames, None for none.

    Raises:
      ConfigError: the package is not installed, or has no such task.
      ContractError: the task has no cost, or no box of observations and actions.
    """
    spec = specs().get(settings.id)
    if spec is None:
        raise unknown_task("Safety-Gymnasium", settings.id, specs())
    module, name = spec.entry_point.split(":")
    arguments = copy.deepcopy(spec.arguments)
    if render_mode is not None:
        _choose_driver()
        kind = "navigation" if "task_id" in arguments else "velocity"
        size = {"width": FRAME_SIZE, "height": FRAME_SIZE}
        arguments |= {"camera_name": CAMERAS[kind], **size}
    with np.errstate(over="ignore"):  # of bounds that gymnasium casts
        built = getattr(importlib.import_module(module), name)(
            render_mode=render_mode, **arguments
        )
    max_steps = settings.max_steps or spec.max_steps
    if "task_id" in arguments:
        built.task.num_steps = max_steps  # its own count must not end it earlier
        built = GoalsGoOn(built)
    return Adapted(built, name=settings.id, max_steps=max_steps, costs=settings.costs)


def specs() -> dict[str, Spec]:
    """All that can be opened, by id; imports and repairs the package once.

    Raises:
      ConfigError: the package is not installed.
    """
    if not _SPECS:
        _import_repaired()
    return _SPECS


class GoalsGoOn(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Calls an episode truncated that ends because no new goal could be placed.

    The package calls it terminated, as if the task were over. It is a limit of the
    sampler, which the value of the next state must not be cut off for.
    """

    def step(self, action: Any) -> Any:
        """As the environment's own."""
        obs, reward, cost, terminated, truncated, info = self.env.step(action)  # type: ignore[misc]
        task = self.unwrapped.task  # type: ignore[attr-defined]
        if terminated and info.get("goal_met") and task.mechanism_conf.continue_goal:
            terminated, truncated = not task.agent.is_alive(), True
        return obs, reward, cost, terminated, truncated, info


def _choose_driver() -> None:
    """Tells MuJoCo how to draw where there is no screen, if nobody has.

    Left to itself it tries a window first, and a second try then ends the process.

    Raises:
      ConfigError: there is nothing to draw with.
    """
    screen = sys.platform != "linux" or os.environ.get("DISPLAY")
    if screen or "MUJOCO_GL" in os.environ:
        return
    for driver, library in DRIVERS.items():
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = driver
            return
    raise ConfigError(
        "this machine has no screen, and no library that draws without one: install "
        "libegl1 or libosmesa6, or run without frames"
    )


def _import_repaired() -> None:
    for module in ("safety_gymnasium", "mujoco", "xmltodict"):
        require_package(module, "Safety-Gymnasium")
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # PyOpenGL raises whatever its library does
        driver = os.environ.get("MUJOCO_GL")
        raise ConfigError(
            f"MuJoCo cannot be imported with MUJOCO_GL={driver}: {error}"
        ) from error
    with _stand_ins(), _unregistered(), _array_defaults():
        importlib.import_module("safety_gymnasium")
        importlib.import_module("safety_gymnasium.builder")
    _joint_indices()
    _one_element_floats()
    _viewer_size()
    _plain_sky()


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Empty modules instead of those that cannot be imported (repair 2)."""

    def register(
        id: str,
        entry_point: str,
        max_episode_steps: int,
        kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        _SPECS[id] = Spec(entry_point, max_episode_steps, dict(kwargs or {}))

    contents: dict[str, dict[str, Any]] = {
        "vector": {},
        "wrappers": {},
        "tasks.safe_multi_agent.safe_mujoco_multi": {"make_ma": None},
        "utils.registration": {"register": register, "make": None},
    }
    for name, attributes in contents.items():
        module = types.ModuleType(f"safety_gymnasium.{name}")
        vars(module).update(attributes)
        sys.modules[module.__name__] = module
    try:
        yield
    except BaseException:  # else a second attempt would find half a package
        for name in [name for name in sys.modules if _is_part(name)]:
            del sys.modules[name]
        _SPECS.clear()
        raise


def _is_part(module: str) -> bool:
    return module == "safety_gymnasium" or module.startswith("safety_gymnasium.")


def _unregistered() -> Any:
    """Nothing is registered with gymnasium (repair 3)."""
    return mock.patch.object(gymnasium, "register", lambda **_: None)


@contextlib.contextmanager
def _array_defaults() -> Iterator[None]:
    """Each instance of a dataclass gets its own copy of an array (repair 1)."""
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda decorated: dataclass(decorated, **options)
        for name in vars(cls).get("__annotations__", {}):
            default = vars(cls).get(name)
            if isinstance(default, np.ndarray):
                setattr(cls, name, dataclasses.field(default_factory=default.copy))
        return original(cls, **options)

    with mock.patch.object(dataclasses, "dataclass", dataclass):
        yield


class _Joints:
    """A model of MuJoCo that takes an array of one as the index of a joint."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def jnt(self, index: Any) -> Any:
        """The joint at an index."""
        return self._model.jnt(int(np.asarray(index).item()))


def _joint_indices() -> None:
    """Robots read their joints through `_Joints` (repair 4)."""
    agent = importlib.import_module("safety_gymnasium.bases.base_agent").BaseAgent
    original = agent._init_jnt_sensors

    def init_joint_sensors(self: Any) -> None:
        engine = self.engine
        self.engine = types.SimpleNamespace(model=_Joints(engine.model))
        try:
            original(self)
        finally:
            self.engine = engine

    agent._init_jnt_sensors = init_joint_sensors


def _one_element_floats() -> None:
    """`float` in the module of the robots' sensors (repair 5)."""
    module: Any = importlib.import_module("safety_gymnasium.bases.base_agent")
    module.float = lambda value: float(np.asarray(value).item())


def _viewer_size() -> None:
    """The viewer takes the size that the model says (repair 6)."""
    module: Any = importlib.import_module("safety_gymnasium.bases.underlying")
    original = module.OffScreenViewer

    def viewer(model: Any, data: Any) -> Any:
        size = model.vis.global_
        return original(model, data, int(size.offwidth), int(size.offheight))

    module.OffScreenViewer = viewer


def _plain_sky() -> None:
    """The world is built from assets that are read once, without pictures (7)."""
    module: Any = importlib.import_module("safety_gymnasium.world")
    original = module.yaml
    plain = {"@type": "skybox", "@builtin": "flat", "@rgb1": "0.5 0.7 0.9"}
    plain |= {"@width": "8", "@height": "48"}

    @functools.cache
    def read(text: str) -> Any:
        assets = original.load(text, Loader=original.FullLoader)
        assets["textures"]["skybox"] = plain
        return assets

    def load(file: Any, **_: Any) -> Any:
        return copy.deepcopy(read(file.read()))

    module.yaml = types.SimpleNamespace(load=load, FullLoader=original.FullLoader)
