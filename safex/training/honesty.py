"""How honest a run's stds were: scores of what the agent believed, region by region.

Three regions: rows held out, states far from the data, and the episode that the agent
executed before it learned from it. At one step every score of `calibration_report`; at
ten what share of truths the particles' 95 % band held.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from safex import rollout
from safex.models import calibration_report
from safex.rollout import Outcome
from safex.types import Agent, Array, Dataset, Environment, PyTree, Transition

# Steps of the paths that are foretold, how many of each region, and their particles.
HORIZON = 10
_NUM_PATHS, _NUM_PARTICLES = 20, 100
# Numbers that are kept of each region.
SCORES = ("rmse", "nll", "crps", "calibration_error", "sharpness", "nominal")
TEN_STEPS = "ten_steps"
# What a run keeps of each region; rows held out are too few in a row for ten steps.
SCORES_OF = {
    "held_out": SCORES,
    "out_of_distribution": (*SCORES, TEN_STEPS),
    "prequential": (*SCORES, TEN_STEPS),
}


def random_path(
    key: Array, env: Environment, state: Any, obs: Array, length: int
) -> Transition:
    """Uniformly random actions from a state and its observation, `[length, ...]`."""

    def step(carry: tuple, key: Array) -> tuple[tuple, Transition]:
        state, obs = carry
        action_key, step_key = jax.random.split(key)
        shape = (env.action_dim,)
        action = jax.random.uniform(action_key, shape, minval=-1.0, maxval=1.0)
        r = env.step(step_key, state, action)
        transition = Transition(
            obs, action, r.reward, r.cost, r.obs, r.terminated, r.truncated
        )
        return (r.state, r.obs), transition

    return jax.lax.scan(step, (state, obs), jax.random.split(key, length))[1]


def far_paths(key: Array, env: Environment, number: int) -> Transition:
    """Random actions from states far from the data, leaves `[number, HORIZON, ...]`."""

    def path(key: Array) -> Transition:
        state_key, key = jax.random.split(key)
        start = env.far_state(state_key)
        return random_path(key, env, start, env.observe(start), HORIZON)

    return jax.vmap(path)(jax.random.split(key, number))


def newest_paths(data: Dataset, length: int) -> Transition:
    """Stretches of the newest episode, `[paths, HORIZON, ...]`; the episode if shorter.

    Args:
      data: all experience, that episode included.
      length: its steps.
    """
    horizon = min(HORIZON, length)
    number = min(_NUM_PATHS, length // horizon)
    starts = (jnp.arange(number) * (length - horizon)) // max(number - 1, 1)
    rows = data.size - length + starts[:, None] + jnp.arange(horizon)
    return jax.tree.map(lambda leaf: leaf[rows], data.transitions)


def held_after(
    key: Array, env: Environment, agent: Agent, state: PyTree, paths: Transition
) -> Array:
    """`[]` share of last observations within the band of 95 % of the particles.

    The particles are sampled anew from the agent's belief at every step (`DIST`), under
    the actions that were executed.

    Args:
      key: consumed.
      env: brings predictions back to observations the system can produce.
      agent: what is asked.
      state: of the agent.
      paths: `[B, H, ...]`; no more than the first few are looked at.
    """
    paths = jax.tree.map(lambda leaf: leaf[:_NUM_PATHS], paths)

    def transition(obs: Array, action: Array, normal: Array) -> Outcome:
        belief = agent.predict(state, obs, action)
        epistemic = agent.beta * belief.epistemic_std
        std = jnp.sqrt(epistemic**2 + belief.aleatoric_std**2)
        next_obs = env.project(belief.mean + std * normal)
        return Outcome(next_obs, next_obs)

    def last(obs: Array, action: Array, normal: Array) -> Array:
        return rollout.trajectory(transition, obs, action, normal)[-1]

    start, truth = paths.obs[:, 0], paths.next_obs[:, -1]
    shape = (_NUM_PARTICLES, *paths.obs.shape[:2], env.obs_dim)
    normal = jax.random.normal(key, shape)
    each = jax.vmap(jax.vmap(last), in_axes=(None, None, 0))
    particles = each(start, paths.action, normal)
    tail = 0.5 - 0.5 * calibration_report.NOMINAL
    lower, upper = jnp.quantile(particles, jnp.array([tail, 1.0 - tail]), axis=0)
    return jnp.mean((lower <= truth) & (truth <= upper))


class Claim(NamedTuple):
    """Predictions of B transitions, and what came.

    Attributes:
      next_obs: `[B, D]` what came.
      mean: `[B, D]` predicted.
      epistemic_std: `[B, D]` calibrated.
      aleatoric_std: `[B, D]`.
      mask: `[B]` bool, rows that count.
    """

    next_obs: npt.ArrayLike
    mean: npt.ArrayLike
    epistemic_std: npt.ArrayLike
    aleatoric_std: npt.ArrayLike
    mask: npt.ArrayLike


def score_claims(
    claims: Mapping[str, Claim], beta: npt.ArrayLike, unit: npt.ArrayLike
) -> dict[str, float | None]:
    """`scores/<region>/<name>` of each region.

    None where no row counts, or a claim about one that does is not finite.

    Args:
      claims: by region.
      beta: `[D]` multiple of the epistemic std that is claimed.
      unit: `[D]` what dimensions are divided by before they are pooled.
    """
    found: dict[str, float | None] = {}
    for region, claim in claims.items():
        mask = np.asarray(claim.mask, bool)
        error = (np.asarray(claim.next_obs) - np.asarray(claim.mean))[mask]
        epistemic = np.asarray(beta) * np.asarray(claim.epistemic_std)
        std = np.hypot(epistemic, np.asarray(claim.aleatoric_std))[mask]
        numbers: dict[str, Any] = dict.fromkeys(SCORES)
        # An overflow far from the data is no reason to stop a run.
        if mask.any() and np.isfinite(error).all() and np.isfinite(std).all():
            scores = calibration_report.score(error, std, unit)
            names = [str(d) for d in range(error.shape[1])]
            numbers = calibration_report.summarise(scores, names)
        for name in SCORES:
            found[f"scores/{region}/{name}"] = numbers[name]
    return found
