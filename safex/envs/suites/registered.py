"""Any environment that is registered with gymnasium and says its cost."""

import importlib

import gymnasium

from safex.config.suites import GymnasiumConfig
from safex.envs.suites.adapter import Adapted, unknown_task
from safex.errors import ConfigError


def open_task(settings: GymnasiumConfig, *, render_mode: str | None = None) -> Adapted:
    """An environment behind safex's contract.

    Args:
      settings: which, and how.
      render_mode: "rgb_array" for frames, None for none.

    Raises:
      ConfigError: the module cannot be imported, or registers no such environment.
      ContractError: the environment has no box of observations and actions, or no time
        limit.
    """
    if settings.module:
        try:
            importlib.import_module(settings.module)
        except ImportError as error:
            raise ConfigError(
                f"env.module {settings.module} cannot be imported: {error}"
            ) from error
    try:
        spec = gymnasium.spec(settings.id)
    except gymnasium.error.Error as error:
        raise unknown_task("gymnasium", settings.id, gymnasium.registry) from error
    max_steps = settings.max_steps or spec.max_episode_steps
    # A step of six values passes no wrapper of gymnasium's; the adapter counts steps.
    arguments = {"render_mode": render_mode} if render_mode else {}
    try:
        env = gymnasium.make(
            spec, max_episode_steps=-1, disable_env_checker=True, **arguments
        )
    except TypeError as error:
        raise ConfigError(f"{settings.id} cannot be made: {error}") from error
    return Adapted(env, name=settings.id, max_steps=max_steps, costs=settings.costs)
