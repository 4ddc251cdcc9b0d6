"""Is a model as sure as it should be? Scores of its predictions, at one step and ten.

All scores take errors and stds as `[B, D]` arrays and give one number per dimension;
`summarise` pools them. They are those of Uncertainty Toolbox (Chung et al. 2021,
arXiv 2109.10254): proper scores (NLL, CRPS; Gneiting and Raftery 2007), average
calibration over centred intervals (Kuleshov et al. 2018), and sharpness.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from scipy import special, stats

from safex import rollout
from safex.models.calibration import COVERAGE_LEVELS
from safex.types import Array, DynamicsModel, Environment, PyTree

Floats = npt.NDArray[np.float64]

NOMINAL = 0.95
# Expected shares at which average calibration is measured, as in Uncertainty Toolbox.
LEVELS = np.linspace(0.0, 1.0, 100)
# Below this a std is no claim at all, only a division by zero.
_MIN_STD = 1e-8


class Scores(NamedTuple):
    """How well stds fit errors, `[D]` each unless said otherwise.

    Attributes:
      rows: how many errors a dimension has.
      rmse: root mean squared error, in the unit of the observation.
      nll: mean negative log likelihood [nat] of errors divided by `unit`.
      crps: mean continuous ranked probability score, in the unit of the observation.
      calibration_error: mean over `LEVELS` of |observed - expected share|, centred
        intervals; 0 is perfect, 0.5 is the worst.
      sharpness: root mean square of the std, in the unit of the observation.
      coverage: `[levels, D]` share within each of `COVERAGE_LEVELS` stds.
      nominal: share within the band that claims 95 %.
      simultaneous: `[]` share of rows whose dimensions are all within that band.
      curve: `[LEVELS]` observed share, pooled over dimensions.
      unit: `[D]` what one unit is when dimensions are pooled.
    """

    rows: int
    rmse: Floats
    nll: Floats
    crps: Floats
    calibration_error: Floats
    sharpness: Floats
    coverage: Floats
    nominal: Floats
    simultaneous: float
    curve: Floats
    unit: Floats


def gaussian_nll(error: npt.ArrayLike, std: npt.ArrayLike) -> Floats:
    """`-log N(error; 0, std^2)` of each entry [nat]."""
    error, std = _pair(error, std)
    return -stats.norm.logpdf(error, scale=std)


def gaussian_crps(error: npt.ArrayLike, std: npt.ArrayLike) -> Floats:
    """`std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))`, z = error / std, each entry.

    The integral of `(F(x) - 1[x >= y])^2` over x (Gneiting and Raftery 2007, Eq. 21).
    """
    error, std = _pair(error, std)
    z = error / std
    spread = z * (2.0 * stats.norm.cdf(z) - 1.0) + 2.0 * stats.norm.pdf(z)
    return std * (spread - 1.0 / np.sqrt(np.pi))


def interval_curve(
    error: npt.ArrayLike, std: npt.ArrayLike, levels: npt.ArrayLike = LEVELS
) -> Floats:
    """Share of errors in the centred interval of each level, `[L, D]`.

    Args:
      error: `[B, D]`.
      std: `[B, D]`.
      levels: `[L]` expected shares in [0, 1].
    """
    error, std = _pair(error, std)
    # The smallest level whose interval holds the error; 1 holds all.
    needed = special.erf(np.abs(error) / (np.sqrt(2.0) * std))
    return (needed <= np.asarray(levels)[:, None, None]).mean(1)


def score(
    error: npt.ArrayLike, std: npt.ArrayLike, unit: npt.ArrayLike = 1.0
) -> Scores:
    """All scores of `[B, D]` errors against the stds that were claimed.

    Args:
      error: `[B, D]` observed minus predicted mean.
      std: `[B, D]` total predicted std.
      unit: `[D]` or scalar, what dimensions are divided by before they are pooled, such
        as the std of one step's difference.

    Raises:
      ValueError: no rows, or a std that is negative or not finite.
    """
    error, std = _pair(error, std)
    if error.shape[0] == 0:
        raise ValueError("errors must have at least one row")
    unit = np.broadcast_to(np.asarray(unit, float), error.shape[1:])
    inside = np.abs(error) / std
    curve = interval_curve(error, std)
    nominal = inside <= stats.norm.ppf(0.5 + 0.5 * NOMINAL)
    return Scores(
        rows=error.shape[0],
        rmse=np.sqrt(np.mean(error**2, axis=0)),
        nll=gaussian_nll(error / unit, std / unit).mean(0),
        crps=gaussian_crps(error, std).mean(0),
        calibration_error=np.abs(curve - LEVELS[:, None]).mean(0),
        sharpness=np.sqrt(np.mean(std**2, axis=0)),
        coverage=np.stack([(inside <= level).mean(0) for level in COVERAGE_LEVELS]),
        nominal=nominal.mean(0),
        simultaneous=float(nominal.all(1).mean()),
        curve=curve.mean(1),
        unit=unit,
    )


def summarise(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    """Plain numbers for JSON: pooled over dimensions, and each dimension by its name.

    Pooled RMSE and sharpness are root mean squares and pooled CRPS is a mean, all in
    multiples of `unit`.

    Args:
      scores: of D dimensions.
      names: D names.
    """

    def numbers(pick: Any, unit: Floats) -> dict[str, Any]:
        def rms(x: Floats) -> float:
            return float(np.sqrt(np.mean((pick(x) / pick(unit)) ** 2)))

        return {
            "rmse": rms(scores.rmse),
            "nll": float(np.mean(pick(scores.nll))),
            "crps": float(np.mean(pick(scores.crps) / pick(unit))),
            "calibration_error": float(np.mean(pick(scores.calibration_error))),
            "sharpness": rms(scores.sharpness),
            "nominal": float(np.mean(pick(scores.nominal))),
            "coverage": {
                f"{level:g}": float(np.mean(pick(share)))
                for level, share in zip(COVERAGE_LEVELS, scores.coverage, strict=True)
            },
        }

    one = np.ones_like(scores.unit)
    return {
        "rows": scores.rows,
        **numbers(lambda x: x, scores.unit),
        "simultaneous": scores.simultaneous,
        "dimensions": {
            name: numbers(lambda x, i=index: x[i : i + 1], one)
            for index, name in enumerate(names)
        },
    }


def one_step(
    model: DynamicsModel,
    state: PyTree,
    obs: npt.ArrayLike,
    action: npt.ArrayLike,
    next_obs: npt.ArrayLike,
) -> tuple[Floats, Floats]:
    """Error and total std `[B, D]` of the calibrated prediction of B transitions."""
    prediction = _predict_all(model, state, jnp.asarray(obs), jnp.asarray(action))
    mean, epistemic, aleatoric = (np.asarray(leaf, float) for leaf in prediction)
    return np.asarray(next_obs, float) - mean, np.hypot(epistemic, aleatoric)


class Imagined(NamedTuple):
    """Particles of imagined trajectories, reduced, each `[B, H, D]`.

    Attributes:
      mean: their mean.
      std: their std.
      lower: lower edge of the band that holds the central 95 % of them.
      upper: upper edge.
    """

    mean: Floats
    std: Floats
    lower: Floats
    upper: Floats


def imagine(
    key: Array,
    model: DynamicsModel,
    state: PyTree,
    env: Environment,
    obs: npt.ArrayLike,
    actions: npt.ArrayLike,
    *,
    mode: str = "DIST",
    num_particles: int = 100,
) -> Imagined:
    """Rolls the model open loop under actions that were really executed.

    Args:
      key: consumed.
      model: the model.
      state: its state.
      env: brings predictions back to observations the system can produce.
      obs: `[B, D]` where each trajectory starts.
      actions: `[B, H, A]`.
      mode: one of `rollout.SAMPLING_MODES`.
      num_particles: P trajectories from each start.
    """
    obs, actions = jnp.asarray(obs), jnp.asarray(actions)
    run = partial(_particles, model, env, mode, num_particles)
    keys = jax.random.split(key, obs.shape[0])
    particles = np.asarray(jax.jit(run)(state, keys, obs, actions), float)
    tail = 0.5 - 0.5 * NOMINAL
    lower, upper = np.quantile(particles, [tail, 1.0 - tail], axis=1)
    return Imagined(particles.mean(1), particles.std(1), lower, upper)


def windows(length: int, horizon: int, stride: int) -> npt.NDArray[np.int64]:
    """Rows `[B, H]` of the stretches of H consecutive steps within one episode.

    Args:
      length: steps of the episode.
      horizon: H.
      stride: steps from one start to the next.
    """
    starts = np.arange(0, length - horizon + 1, stride)
    return starts[:, None] + np.arange(horizon)


def held(truth: npt.ArrayLike, imagined: Imagined) -> Floats:
    """Share of `[B, H, D]` truths within the particles' 95 % band, `[H, D]`."""
    truth = np.asarray(truth, float)
    inside = (imagined.lower <= truth) & (truth <= imagined.upper)
    return inside.mean(0)


@partial(jax.jit, static_argnums=0)
def _predict_all(model: DynamicsModel, state: PyTree, obs: Array, act: Array) -> Any:
    return jax.vmap(partial(model.predict, state))(obs, act)


def _particles(
    model: DynamicsModel,
    env: Environment,
    mode: str,
    num_particles: int,
    state: PyTree,
    keys: Array,
    obs: Array,
    actions: Array,
) -> Array:
    """Observations `[B, P, H, D]`."""
    transition = rollout.sampled_transition(model, state, mode, env)
    horizon, dim = actions.shape[1], obs.shape[1]

    def one(args: tuple[Array, Array, Array]) -> Array:
        key, obs, actions = args
        noise = rollout.draw_noise(
            key, mode, num_particles, horizon, dim, model.num_members
        )
        follow = partial(rollout.trajectory, transition, obs, actions)
        return jax.vmap(follow)(noise)

    return jax.lax.map(one, (keys, obs, actions))


def _pair(error: npt.ArrayLike, std: npt.ArrayLike) -> tuple[Floats, Floats]:
    error, std = np.asarray(error, float), np.asarray(std, float)
    if not (np.isfinite(std) & (std >= 0)).all():
        raise ValueError("stds must be finite and not negative")
    return error, np.maximum(std, _MIN_STD)
