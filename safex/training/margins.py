"""How far past its limits a system went, and how far a prediction says it goes."""

import itertools
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safex.types import Array, Environment

if TYPE_CHECKING:
    from safex.training.account import EpisodeRecord
    from safex.training.forecast import Forecast


class Limit(NamedTuple):
    """What one constraint is about.

    Attributes:
      name: what is limited.
      value: the limit.
      unit: of it.
    """

    name: str
    value: float
    unit: str


class Margins(NamedTuple):
    """Signed distances past the limits, > 0 violates; each `[T, C]`.

    Attributes:
      actual: what happened.
      mean: of the predicted mean.
      lower: lower edge of the band, to first order in its width.
      upper: upper edge of it.
    """

    actual: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def limits_of(env: Environment) -> tuple[Limit, ...]:
    """The C limits of a system."""
    values = np.asarray(env.limits).tolist()
    return tuple(map(Limit, env.limit_names, values, env.limit_units))


def prediction_margins(
    env: Environment, record: "EpisodeRecord", width: float
) -> Margins:
    """Margins of an episode's one-step predictions.

    The band is `margin(mean) ± width sigma_m` with the error propagated through the
    gradient of the margin, `sigma_m^2 = sum_d (d margin / d obs_d)^2 sigma_d^2`.

    Args:
      env: the system.
      record: the episode, with a prediction at every step.
      width: half width of the band, in sigma.
    """
    value, slope = _linearised(env, record.obs, record.action, record.mean)
    variance = record.epistemic_std**2 + record.aleatoric_std**2
    half = width * np.sqrt(np.einsum("tcd,td->tc", slope**2, variance))
    return Margins(record.margin, value, value - half, value + half)


def forecast_margins(
    env: Environment, record: "EpisodeRecord", forecast: "Forecast"
) -> Margins:
    """Margins of a forecast; of its band, the extremes found in the band's box.

    Looked at are its corners (some of them, in many dimensions), its middle and
    points in between; a limit on a size, `|x|`, has its largest margin at a corner.

    Args:
      env: the system.
      record: the episode that the forecast is about.
      forecast: the forecast, of steps of that episode.
    """
    window = slice(forecast.start_step, forecast.start_step + len(forecast.mean))
    # The mean path starts at what was observed.
    obs = np.concatenate([record.obs[window][:1], forecast.mean[:-1]])
    action = record.action[window]
    share = _points_of_box(forecast.mean.shape[1])[:, None]
    points = forecast.lower + share * (forecast.upper - forecast.lower)
    found = np.asarray(_margins(env, *map(jnp.asarray, (obs, action, points))))
    mean = np.asarray(
        _margins(env, *map(jnp.asarray, (obs, action, forecast.mean[None])))
    )
    every = np.concatenate([mean, found])
    return Margins(record.margin[window], mean[0], every.min(0), every.max(0))


def _points_of_box(dim: int) -> np.ndarray:
    """`[points, dim]` in [0, 1]: corners, at most 512, and uniform points."""
    corners = np.array(
        list(itertools.islice(itertools.product((0.0, 1.0), repeat=dim), 512))
    )
    random = np.random.default_rng(0)
    inside = random.uniform(size=(256, dim))
    return np.concatenate([corners, np.round(random.uniform(size=(64, dim))), inside])


@jax.jit
@partial(jax.vmap, in_axes=(None, None, None, 0))
@partial(jax.vmap, in_axes=(None, 0, 0, 0))
def _margins(env: Environment, obs: Array, action: Array, next_obs: Array) -> Array:
    """`[points, T, C]` of `[T, D]`, `[T, A]`, `[points, T, D]`."""
    return env.margin(obs, action, next_obs)


def _linearised(
    env: Environment, obs: np.ndarray, action: np.ndarray, next_obs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Margins `[T, C]` and their gradients `[T, C, D]` by the next observation."""
    value, slope = _value_and_slope(env, *map(jnp.asarray, (obs, action, next_obs)))
    return np.asarray(value), np.asarray(slope)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0, 0))
def _value_and_slope(
    env: Environment, obs: Array, action: Array, next_obs: Array
) -> tuple[Array, Array]:
    value = env.margin(obs, action, next_obs)
    return value, jax.jacfwd(env.margin, argnums=2)(obs, action, next_obs)
