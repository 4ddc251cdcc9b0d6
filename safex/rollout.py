"""Imagined trajectories: one scan of a model under an action sequence.

A rollout is deterministic given its noise, so all candidates of one decision share the
same noise (common random numbers) and differ only by their actions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from safex.config import TerminalConfig
from safex.errors import SafexError
from safex.models.staged import stages
from safex.types import Array, DynamicsModel, Environment, Prediction, PyTree, Score

Reward = Callable[[Array, Array, Array], Array]
NO_TERMINAL = TerminalConfig()


class Noise(NamedTuple):
    """All randomness of one particle's rollout.

    Attributes:
      normal: `[H, D]` standard normal draws.
      member: `[H]` int32 ensemble member asked at each step.
    """

    normal: Array
    member: Array


class Stds(NamedTuple):
    """How sure a model is of a step, or of those of a rollout.

    Attributes:
      epistemic: `[..., D]`.
      aleatoric: `[..., D]`.
    """

    epistemic: Array
    aleatoric: Array


class Outcome(NamedTuple):
    """A step of imagination.

    Attributes:
      next_obs: `[D]` where the rollout goes on from.
      judged_obs: `[D]` the next observation that reward and cost are judged at.
      kept: what `trace` returns of each step.
    """

    next_obs: Array
    judged_obs: Array
    kept: PyTree = ()


class Push(NamedTuple):
    """What an adversary does to a step.

    Attributes:
      eta: `[D]` in [-1, 1].
      stds: that it pushes by; None for those of the state that it has pushed to.
    """

    eta: Array
    stds: Stds | None = None


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


# Modes that ask members of their own.
_MEMBER_MODES = ("TS1", "TSInf")


def check_sampling_mode(model: DynamicsModel, mode: str) -> None:
    """Refuses a mode that a model cannot do, before a run begins.

    Raises:
      SafexError: the mode is unknown, or asks members of a model that has none; names
        the modes that the model can do.
    """
    can = [
        name
        for name in SAMPLING_MODES
        if model.num_members or name not in _MEMBER_MODES
    ]
    if mode not in can:
        lacking = "" if model.num_members else ", which has no members"
        raise SafexError(
            f"sampling_mode must be one of {', '.join(can)} for this model{lacking}; "
            f"got {mode!r}"
        )


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
        # Every step deals the members out anew, as evenly as they go.
        first_key, order_key = jax.random.split(member_key)
        first = jax.random.randint(first_key, (horizon, 1), 0, members)
        index = (first + jnp.arange(num_particles)) % members
        keys = jax.random.split(order_key, horizon)
        member = jax.vmap(jax.random.permutation)(keys, index).T
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
) -> Callable[[Array, Array, Push], Outcome]:
    """The transition that an adversary steers within the model's confidence.

    `s' = mu(s, a) + width * sigma_epistemic(s, a) * eta`, `eta` in [-1, 1]^D (Curi et
    al. 2020, arXiv 2006.08684, Eq. 5, with the sign of pessimism). The state is judged
    at `s' + noise_width * sigma_aleatoric * eta`: the noise of the next step counts
    against the plan, but does not add up over the horizon, because the plan is made
    anew after every step.

    With stds of its own, a push takes those in place of the state's: along the plan as
    it is without an adversary they make the tube of first order (Hewing et al. 2020,
    arXiv 1705.10702, propagate the covariance likewise about the mean).

    Args:
      model: the dynamics model.
      model_state: its state.
      env: brings predictions back to observations the system can produce.
      width: `[D]` or scalar multiple of the calibrated epistemic std, traced.
      noise_width: multiple of the aleatoric std.
    """
    outline, complete = stages(model, model_state)

    def transition(obs: Array, action: Array, push: Push) -> Outcome:
        mean, rest = outline(obs, action)
        stds = push.stds or _stds(complete(obs, action, rest))
        next_obs = mean + width * stds.epistemic * push.eta
        judged = next_obs + noise_width * stds.aleatoric * push.eta
        return Outcome(env.project(next_obs), env.project(judged))

    return transition


def affordable(eta: Array, steps: Array | float, held: int = 0) -> Array:
    """The share `[]` of its pushes that an adversary may afford over a whole rollout.

    `sum_t max_d (share eta_td)^2 <= steps`: full in that many steps, weaker in more.
    For `steps` 1, a width of r stds and errors that are independent Gaussian from step
    to step, the worst push of a linear quantity is its mean plus r of its own stds; a
    box in every step adds the stds up instead of their squares. An ellipsoid as in
    Ben-Tal and Nemirovski 1999; the budget of uncertainty of Bertsimas and Sim 2004.

    Args:
      eta: `[H, D]` in [-1, 1].
      steps: `[]` how many, infinite for no such limit.
      held: further steps through which the last push is held.
    """
    push = jnp.max(eta**2, axis=1)
    spent = push.sum() + held * push[-1]
    # This way round an infinite number of steps has a slope, of 0.
    return 1.0 / jnp.sqrt(jnp.maximum(spent / steps, 1.0))


def evaluate(
    env: Environment,
    transition: Callable[[Array, Array, Any], Outcome],
    obs: Array,
    actions: Array,
    inputs: Any,
    *,
    terminal: TerminalConfig = NO_TERMINAL,
    reward: Reward | None = None,
) -> Score:
    """Scores one imagined trajectory; `trace` without what it keeps."""
    how: dict[str, Any] = {"terminal": terminal, "reward": reward}
    return trace(env, transition, obs, actions, inputs, **how)[0]


def trace(
    env: Environment,
    transition: Callable[[Array, Array, Any], Outcome],
    obs: Array,
    actions: Array,
    inputs: Any,
    *,
    terminal: TerminalConfig = NO_TERMINAL,
    reward: Reward | None = None,
) -> tuple[Score, PyTree]:
    """Scores one imagined trajectory, and returns what the transition kept of it.

    With terminal steps the environment's backup acts behind the actions, in the same
    model and under the same noise or adversary, and its costs count.

    Args:
      env: reward, cost and margin.
      transition: `(obs, action, input) -> Outcome`.
      obs: `[D]` where it starts, or `[P, D]` for P particles that the transition moves
        at once.
      actions: `[H, A]`.
      inputs: leaves `[H, ...]` or `[H + K, ...]`, noise or adversary; the last row of a
        shorter one holds on through the terminal steps.
      terminal: the K steps of the backup, and what they are worth.
      reward: of a step, that of the environment if None.

    Returns:
      mean reward of the H steps, the terminal value shared out among them; summed cost;
      and the margin: how far past the limit, added up over all steps, if it is ever
      passed, else the (negative) distance of the closest call. Leaves `[]` and `[C]`,
      or `[P]` and `[P, C]`. And what the outcomes kept, leaves `[H + K, ...]`.
    """
    horizon, length = actions.shape[0], actions.shape[0] + terminal.steps
    reward = env.reward if reward is None else reward

    def each(function: Callable[..., Array], *arguments: Array) -> Array:
        """Calls a function of one particle for all; an action may be common to them."""
        if obs.ndim == 2:
            axes = tuple(0 if leaf.ndim == 2 else None for leaf in arguments)
            function = jax.vmap(function, in_axes=axes)
        return function(*arguments)

    def step(carry: Any, inputs: Any) -> tuple[Any, PyTree]:
        obs, value, cost, closest, excess = carry
        t, weight, action, extra = inputs
        if terminal.steps:
            action = jnp.where(t < horizon, action, each(env.backup, obs))
        outcome = transition(obs, action, extra)
        triple = (obs, action, outcome.judged_obs)
        value = value + weight * each(reward, *triple)
        if terminal.value == "env":
            # Not of the protocol: a system may offer one, and the agent asks.
            function = env.terminal_value  # type: ignore[attr-defined]
            worth = each(function, outcome.next_obs)
            value = value + jnp.where(t == horizon - 1, worth, 0.0)
        cost = cost + each(env.cost, *triple)
        margin = each(env.margin, *triple)
        closest = jnp.maximum(closest, margin)
        excess = excess + jnp.maximum(margin, 0.0)
        return (outcome.next_obs, value, cost, closest, excess), outcome.kept

    particles = obs.shape[:-1]
    zero = jnp.zeros((*particles, env.num_constraints))
    closest = jnp.full_like(zero, -jnp.inf)
    start = _mapped_with(actions, (obs, jnp.zeros(particles), zero, closest, zero))
    t = jnp.arange(length)
    weight = jnp.where(t < horizon, 1.0, _worth(terminal, t - horizon))
    steps = (t, weight, *(_hold(tree, length) for tree in (actions, inputs)))
    (_, value, cost, closest, excess), kept = jax.lax.scan(step, start, steps)
    margin = jnp.where(closest > 0, excess, closest)
    return Score(value / horizon, cost, margin), kept


def trace_mean(
    env: Environment,
    model: DynamicsModel,
    model_state: PyTree,
    obs: Array,
    actions: Array,
    *,
    terminal: TerminalConfig = NO_TERMINAL,
    reward: Reward | None = None,
) -> tuple[Score, Stds]:
    """Scores the rollout of the mode MEAN, and says how sure the model is of each step.

    Args:
      env: as in `trace`, as are the others not named here.
      model: the dynamics model.
      model_state: its state.
      obs: `[D]` where it starts.
      actions: `[H, A]`.
      terminal: as in `trace`.
      reward: as in `trace`.

    Returns:
      the score, and stds of the H + K steps.
    """
    outline, complete = stages(model, model_state)

    def transition(obs: Array, action: Array, unused: Any) -> Outcome:
        del unused
        mean, rest = outline(obs, action)
        next_obs = env.project(mean)
        return Outcome(next_obs, next_obs, (obs, action, rest))

    score, kept = trace(
        env, transition, obs, actions, None, terminal=terminal, reward=reward
    )
    # All steps at once: a second opinion is small work many times over.
    return score, _stds(jax.vmap(complete)(*kept))


def _stds(prediction: Prediction) -> Stds:
    return Stds(prediction.epistemic_std, prediction.aleatoric_std)


def _mapped_with(actions: Array, start: PyTree) -> PyTree:
    """The start, mapped over wherever the actions are.

    What a scan carries is so from its first step on, and `vmap` need not trace every
    step once more to find that out: a fifth of the tracing of a decision.
    """
    finite = actions.ravel()[0] < jnp.inf
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, leaf), start)


def _worth(terminal: TerminalConfig, k: Array) -> Array | float:
    """How much the rewards of the terminal steps `k` count."""
    if terminal.value not in ("backup", "hold"):
        return 0.0
    weight = terminal.discount ** k.astype(float)
    if terminal.value == "backup":
        return weight
    # The geometric series of all steps from the last one on.
    return jnp.where(
        k == terminal.steps - 1, weight / (1.0 - terminal.discount), weight
    )


def _hold(tree: PyTree, length: int) -> PyTree:
    """Repeats the last row of leaves that are shorter than `length`."""

    def hold(leaf: Array) -> Array:
        missing = length - leaf.shape[0]
        if missing <= 0:
            return leaf
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    return jax.tree.map(hold, tree)


def evaluate_by_member(
    env: Environment,
    model: DynamicsModel,
    model_state: PyTree,
    obs: Array,
    actions: Array,
    noise: Noise,
    *,
    terminal: TerminalConfig = NO_TERMINAL,
    reward: Reward | None = None,
) -> Score:
    """What `evaluate` says of each particle under the modes TS1 and TSInf, faster.

    Particles are sorted by the member they ask, so that a layer is one product for all
    particles of a member (and, under `vmap`, of all candidates) instead of one for each
    particle with weights gathered for it.

    Args:
      env: reward, cost and margin.
      model: a model with members.
      model_state: its state.
      obs: `[D]` where all particles start.
      actions: `[H, A]`.
      noise: of P particles, leaves `[P, H, ...]`, members dealt evenly at each step as
        `draw_noise` does; `[P, H + K, ...]` with terminal steps.
      terminal: as in `evaluate`.
      reward: as in `evaluate`.

    Returns:
      leaves `[P]` and `[P, C]`.
    """
    num_particles, num_members = noise.member.shape[0], model.num_members
    few = num_particles < num_members
    size = 1 if few else -(-num_particles // num_members)
    groups = num_particles if few else num_members

    def sort(member: Array) -> tuple[Array, Array]:
        """Each particle's slot `[P]`, and the particle in each slot `[groups size]`."""
        particle = jnp.arange(num_particles)
        if few:
            return particle, particle
        same = (member[:, None] == member) & (particle[:, None] > particle)
        slot = member * size + same.sum(1)
        # A slot that nobody fills repeats particle 0 and is never read.
        return slot, jnp.zeros(groups * size, jnp.int32).at[slot].set(particle)

    def transition(obs: Array, action: Array, inputs: tuple) -> Outcome:
        noise, slot, particle = inputs
        state = model.select(model_state, noise.member) if few else model_state
        grouped = obs[particle].reshape(groups, size, -1)
        if action.ndim == 2:  # the backup's, one for each particle
            action = action[particle].reshape(groups, size, -1)
        prediction = model.members(state, grouped, action)
        prediction = jax.tree.map(
            lambda leaf: leaf.reshape(groups * size, -1)[slot], prediction
        )
        next_obs = jax.vmap(env.project)(_sample(prediction, noise.normal))
        return Outcome(next_obs, next_obs)

    by_step = Noise(jnp.swapaxes(noise.normal, 0, 1), noise.member.T)
    inputs = (by_step, *jax.vmap(sort)(by_step.member))
    start = jnp.broadcast_to(obs, (num_particles, *obs.shape))
    return evaluate(
        env, transition, start, actions, inputs, terminal=terminal, reward=reward
    )


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
