"""Imagined trajectories: one scan of a model under an action sequence.

A rollout is deterministic given its noise, so all candidates of one decision share the
same noise (common random numbers) and differ only by their actions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from safex.types import Array, DynamicsModel, Environment, Prediction, PyTree, Score


class Noise(NamedTuple):
    """All randomness of one particle's rollout.

    Attributes:
      normal: `[H, D]` standard normal draws.
      member: `[H]` int32 ensemble member asked at each step.
    """

    normal: Array
    member: Array


class Outcome(NamedTuple):
    """A step of imagination.

    Attributes:
      next_obs: `[D]` where the rollout goes on from.
      judged_obs: `[D]` the next observation that reward and cost are judged at.
    """

    next_obs: Array
    judged_obs: Array


def _mean(model: DynamicsModel, state: PyTree, obs: Array, a: Array, n: Noise) -> Array:
    """Expected next observation."""
    del n
    return model.predict(state, obs, a).mean


def _noisy_mean(
    model: DynamicsModel, state: PyTree, obs: Array, a: Array, n: Noise
) -> Array:
    """Expected next observation with the system's own noise."""
    prediction = model.predict(state, obs, a)
    return prediction.mean + prediction.aleatoric_std * n.normal


def _distribution(
    model: DynamicsModel, state: PyTree, obs: Array, a: Array, n: Noise
) -> Array:
    """Moment-matched Gaussian of both uncertainties, fresh at every step."""
    return _sample(model.predict(state, obs, a), n.normal)


def _trajectory_sample(
    model: DynamicsModel, state: PyTree, obs: Array, a: Array, n: Noise
) -> Array:
    """One member's mean with its noise; which member is in the noise (TS)."""
    return _sample(model.member(state, obs, a, n.member), n.normal)


def _sample(prediction: Prediction, normal: Array) -> Array:
    std = jnp.sqrt(prediction.epistemic_std**2 + prediction.aleatoric_std**2)
    return prediction.mean + std * normal


# Names of the study: PETS calls DIST "DS"; TS1 draws a member at every step, TSInf one
# for the whole rollout (Chua et al. 2018, Sec. 4).
SAMPLING_MODES: dict[str, Callable[..., Array]] = {
    "MEAN": _mean,
    "NOISY_MEAN": _noisy_mean,
    "DIST": _distribution,
    "TS1": _trajectory_sample,
    "TSInf": _trajectory_sample,
}


def draw_noise(
    key: Array, mode: str, num_particles: int, horizon: int, dim: int, num_members: int
) -> Noise:
    """Noise of `num_particles` rollouts, leaves `[P, H, ...]`.

    Args:
      key: consumed.
      mode: one of `SAMPLING_MODES`.
      num_particles: P.
      horizon: H.
      dim: D.
      num_members: E, or 0 for a model without members.

    Raises:
      ValueError: the mode is unknown.
    """
    if mode not in SAMPLING_MODES:
        raise ValueError(
            f"sampling_mode must be one of {tuple(SAMPLING_MODES)}, got {mode!r}"
        )
    normal_key, member_key = jax.random.split(key)
    normal = jax.random.normal(normal_key, (num_particles, horizon, dim))
    members = max(num_members, 1)
    if mode == "TSInf":
        # Spread evenly from a random start, so that few particles still see many
        # members.
        first = jax.random.randint(member_key, (), 0, members)
        index = (first + jnp.arange(num_particles)) % members
        member = jnp.broadcast_to(index[:, None], (num_particles, horizon))
    else:
        member = jax.random.randint(member_key, (num_particles, horizon), 0, members)
    return Noise(normal, member)


def sampled_transition(
    model: DynamicsModel, model_state: PyTree, mode: str, env: Environment
) -> Callable[[Array, Array, Noise], Outcome]:
    """The transition of a nominal or sampled rollout.

    Args:
      model: the dynamics model.
      model_state: its state.
      mode: one of `SAMPLING_MODES`.
      env: brings predictions back to observations the system can produce.
    """
    sample = SAMPLING_MODES[mode]

    def transition(obs: Array, action: Array, noise: Noise) -> Outcome:
        next_obs = env.project(sample(model, model_state, obs, action, noise))
        return Outcome(next_obs, next_obs)

    return transition


def hallucinated_transition(
    model: DynamicsModel,
    model_state: PyTree,
    env: Environment,
    width: Array,
    noise_width: float,
) -> Callable[[Array, Array, Array], Outcome]:
    """The transition that an adversary steers within the model's confidence.

    `s' = mu(s, a) + width * sigma_epistemic(s, a) * eta`, `eta` in [-1, 1]^D (Curi et
    al. 2020, arXiv 2006.08684, Eq. 5, with the sign of pessimism). The state is judged
    at `s' + noise_width * sigma_aleatoric * eta`: the noise of the next step counts
    against the plan, but does not add up over the horizon, because the plan is made
    anew after every step.

    Args:
      model: the dynamics model.
      model_state: its state.
      env: brings predictions back to observations the system can produce.
      width: `[D]` or scalar multiple of the calibrated epistemic std, traced.
      noise_width: multiple of the aleatoric std.
    """

    def transition(obs: Array, action: Array, eta: Array) -> Outcome:
        prediction = model.predict(model_state, obs, action)
        next_obs = prediction.mean + width * prediction.epistemic_std * eta
        judged = next_obs + noise_width * prediction.aleatoric_std * eta
        return Outcome(env.project(next_obs), env.project(judged))

    return transition


def evaluate(
    env: Environment,
    transition: Callable[[Array, Array, Any], Outcome],
    obs: Array,
    actions: Array,
    inputs: Any,
) -> Score:
    """Scores one imagined trajectory.

    Args:
      env: reward, cost and margin.
      transition: `(obs, action, input) -> Outcome`.
      obs: `[D]` where it starts.
      actions: `[H, A]`.
      inputs: leaves `[H, ...]`, noise or adversary.

    Returns:
      mean reward, summed cost, and the margin: how far past the limit, added up over
      the horizon, if it is ever passed, else the (negative) distance of the closest
      call.
    """

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        obs, value, cost, closest, excess = carry
        action, extra = inputs
        outcome = transition(obs, action, extra)
        triple = (obs, action, outcome.judged_obs)
        value = value + env.reward(*triple)
        cost = cost + env.cost(*triple)
        margin = env.margin(*triple)
        closest = jnp.maximum(closest, margin)
        excess = excess + jnp.maximum(margin, 0.0)
        return (outcome.next_obs, value, cost, closest, excess), None

    zero = jnp.zeros(())
    start = (obs, zero, zero, jnp.full((), -jnp.inf), zero)
    (_, value, cost, closest, excess), _ = jax.lax.scan(step, start, (actions, inputs))
    margin = jnp.where(closest > 0, excess, closest)
    return Score(value / actions.shape[0], cost, margin)


def trajectory(
    transition: Callable[[Array, Array, Any], Outcome],
    obs: Array,
    actions: Array,
    inputs: Any,
) -> Array:
    """The judged observations `[H, D]` of one imagined trajectory."""

    def step(obs: Array, inputs: Any) -> tuple[Array, Array]:
        outcome = transition(obs, *inputs)
        return outcome.next_obs, outcome.judged_obs

    return jax.lax.scan(step, obs, (actions, inputs))[1]
