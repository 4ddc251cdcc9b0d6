import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex import rollout
from safex.config import CalibrationConfig, EnsembleConfig
from safex.envs.pendulum import Pendulum
from safex.models.ensemble import probabilistic_ensemble
from safex.models.true_dynamics import TrueDynamics
from safex.rollout import Noise, Outcome
from safex.types import Prediction
from tests.helpers import assert_close

EP = np.array([0.3, 0.4], np.float32)
AL = np.array([0.4, 0.3], np.float32)


class Line:
    """A task on the line whose reward tells its three arguments apart.

    Every limit is a constraint on the same coordinate. The cost is twice the excess, so
    that it is not taken for the margin.
    """

    obs_dim = 2
    action_dim = 1

    def __init__(self, *limits):
        self.limits = jnp.asarray(limits or (1.0,))
        self.num_constraints = len(self.limits)

    def reward(self, obs, action, next_obs):
        return 100.0 * obs[0] + 10.0 * action[0] + next_obs[0]

    def cost(self, obs, action, next_obs):
        return 2.0 * jnp.maximum(self.margin(obs, action, next_obs), 0.0)

    def margin(self, obs, action, next_obs):
        return next_obs[0] - self.limits

    def project(self, obs):
        return jnp.clip(obs, -50.0, 50.0)


@dataclasses.dataclass(frozen=True)
class Drift:
    """`next_obs = obs + action`, with two known stds; member `i` lands at `i`."""

    ep: float = 1.0
    al: float = 1.0
    num_members = 5

    def predict(self, state, obs, action):
        return Prediction(state + obs + action, self.ep * EP, self.al * AL)

    def member(self, state, obs, action, index):
        mean = jnp.full_like(obs, index)
        return Prediction(mean, jnp.zeros_like(mean), jnp.zeros_like(mean))

    def members(self, state, obs, action):
        mean = jnp.broadcast_to(jnp.arange(5.0)[:, None, None], obs.shape)
        return Prediction(mean, jnp.zeros_like(mean), jnp.zeros_like(mean))


# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

LINE = Line()
START = jnp.array([2.0, -1.0])
ACTIONS = jnp.array([[0.5], [-1.0], [2.0]])
H = len(ACTIONS)
MEAN_PATH = np.array([[2.5, -0.5], [1.5, -1.5], [3.5, 0.5]])


def sampled(mode, model=Drift(), env=LINE, state=0.0):
    return rollout.sampled_transition(model, state, mode, env)


def one_step(mode, normal, model=Drift(), member=0):
    noise = Noise(jnp.asarray(normal), jnp.asarray(member))
    outcome = sampled(mode, model)(START, ACTIONS[0], noise)
    assert_close(outcome.next_obs, outcome.judged_obs)
    return outcome.next_obs


def no_noise(dim=2):
    return Noise(jnp.zeros((H, dim)), jnp.zeros(H, jnp.int32))


# One step, mode by mode.

NORMAL = np.array([1.0, -2.0], np.float32)


def test_mean_ignores_the_noise():
    assert_close(one_step("MEAN", NORMAL), MEAN_PATH[0])


def test_noisy_mean_has_the_aleatoric_noise_alone():
    assert_close(one_step("NOISY_MEAN", NORMAL), MEAN_PATH[0] + AL * NORMAL)
    assert_close(one_step("NOISY_MEAN", NORMAL, Drift(al=0.0)), MEAN_PATH[0])


def test_dist_has_both_noises():
    # The stds are the legs of a 3-4-5 triangle: the total is 0.5.
    assert_close(one_step("DIST", NORMAL), MEAN_PATH[0] + 0.5 * NORMAL)


@pytest.mark.parametrize("mode", ["TS1", "TSInf"])
def test_trajectory_samples_ask_the_member_in_the_noise(mode):
    assert_close(one_step(mode, NORMAL, member=3), np.full(2, 3.0))


# Which member is asked when.


@functools.partial(jit, static_argnums=(0, 1, 2))
def imagined(mode, particles, num_members):
    """Observations `[12, P, 40, D]` of 12 decisions not to act."""
    transition = sampled(mode, Drift(ep=1.0, al=0.5))

    def path(noise):
        return rollout.trajectory(transition, START, jnp.zeros((40, 1)), noise)

    def decision(key):
        noise = rollout.draw_noise(key, mode, particles, 40, 2, num_members)
        return jax.vmap(path)(noise)

    return jax.vmap(decision)(jax.random.split(jax.random.key(0), 12))


def members(mode, particles):
    """The members `[12, P, 40]` that were asked."""
    return np.asarray(imagined(mode, particles, 5))[..., 0].astype(int)


def test_tsinf_keeps_a_member_for_each_particle_and_spreads_them():
    asked = members("TSInf", 10)
    assert np.all(asked == asked[..., :1])
    assert np.all(np.sort(asked[..., 0]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])


def test_tsinf_with_few_particles_starts_at_a_random_member():
    asked = members("TSInf", 2)[..., 0]
    assert np.all(asked[:, 0] != asked[:, 1])
    assert np.unique(asked).size == 5


def test_ts1_changes_the_member_over_time():
    asked = members("TS1", 10)
    share = np.bincount(asked.ravel(), minlength=5) / asked.size
    assert np.all(np.abs(share - 0.2) < 0.03)
    for axis in range(3):  # between decisions, particles and steps
        assert np.all(np.ptp(asked, axis) > 0)


def test_without_members_the_first_is_asked():
    assert not np.asarray(imagined("TS1", 1, 0)).any()


def test_dist_walks_with_the_variance_of_both():
    moves = np.diff(np.asarray(imagined("DIST", 10, 0)), axis=2).reshape(-1, 2)
    assert_close(moves.var(0), EP**2 + (0.5 * AL) ** 2, rtol=0.1)
    assert_close(moves.mean(0), np.zeros(2), atol=0.03)


def test_unknown_mode_names_the_known_ones():
    with pytest.raises(
        ValueError, match=r"sampling_mode must be one of .*TSInf.* 'DS'"
    ):
        rollout.draw_noise(jax.random.key(0), "DS", 1, 1, 2, 0)


# The adversary's transition.


def hallucinated(width, noise_width, eta):
    transition = rollout.hallucinated_transition(
        Drift(), 0.0, LINE, jnp.asarray(width), noise_width
    )
    return transition(START, ACTIONS[0], rollout.Push(jnp.asarray(eta)))


def test_no_adversary_gives_the_mean():
    expected = Outcome(MEAN_PATH[0], MEAN_PATH[0])
    assert_close(hallucinated(3.0, 2.0, [0.0, 0.0]), expected)


def test_adversary_moves_the_mean_by_its_width_and_judges_the_noise_apart():
    eta = np.array([1.0, -1.0])
    outcome = hallucinated(3.0, 2.0, eta)
    assert_close(outcome.next_obs, MEAN_PATH[0] + 3.0 * EP * eta)
    assert_close(outcome.judged_obs, MEAN_PATH[0] + (3.0 * EP + 2.0 * AL) * eta)


def test_width_may_differ_between_dimensions():
    outcome = hallucinated([0.0, 2.0], 0.0, [1.0, 1.0])
    assert_close(outcome.next_obs, MEAN_PATH[0] + np.array([0.0, 2.0]) * EP)


def test_a_push_may_bring_stds_of_its_own():
    transition = rollout.hallucinated_transition(Drift(), 0.0, LINE, 3.0, 2.0)
    stds = rollout.Stds(jnp.array([0.5, 0.0]), jnp.array([0.0, 0.25]))
    outcome = transition(START, ACTIONS[0], rollout.Push(jnp.ones(2), stds))
    assert_close(outcome.next_obs, MEAN_PATH[0] + np.array([1.5, 0.0]))
    assert_close(outcome.judged_obs, MEAN_PATH[0] + np.array([1.5, 0.5]))


def test_the_mean_is_scored_as_ever_and_its_stds_are_kept():
    score, stds = rollout.trace_mean(LINE, Drift(), 0.0, START, ACTIONS)
    plain = rollout.evaluate(LINE, sampled("MEAN"), START, ACTIONS, no_noise())
    assert_close(score, plain)
    assert_close(tuple(stds), (np.tile(EP, (H, 1)), np.tile(AL, (H, 1))))


def test_epistemic_moves_add_up_and_aleatoric_ones_do_not():
    transition = rollout.hallucinated_transition(Drift(), 0.0, LINE, 1.0, 2.0)
    path = rollout.trajectory(
        transition, START, ACTIONS, rollout.Push(jnp.ones((H, 2)))
    )
    steps = np.array([[1.0], [2.0], [3.0]])
    assert_close(path, MEAN_PATH + steps * EP + 2.0 * AL)


# A whole trajectory.


def test_trajectory_of_the_mean_by_hand():
    assert_close(
        rollout.trajectory(sampled("MEAN"), START, ACTIONS, no_noise()), MEAN_PATH
    )


def test_the_models_state_reaches_the_model():
    path = rollout.trajectory(sampled("MEAN", state=1.0), START, ACTIONS, no_noise())
    assert_close(path, MEAN_PATH + np.array([[1.0], [2.0], [3.0]]))


def test_score_by_hand():
    score = rollout.evaluate(Line(2.0), sampled("MEAN"), START, ACTIONS, no_noise())
    # 100 obs + 10 action + next_obs, at obs 2, 2.5, 1.5 and next_obs 2.5, 1.5, 3.5.
    assert_close(score.value, (207.5 + 241.5 + 173.5) / 3.0)
    assert_close(score.cost, np.array([2.0 * (0.5 + 0.0 + 1.5)]))
    assert_close(score.margin, np.array([0.5 + 0.0 + 1.5]))


def test_each_constraint_has_a_cost_and_a_margin_of_its_own():
    env = Line(2.0, 10.0, 3.0)
    score = rollout.evaluate(env, sampled("MEAN"), START, ACTIONS, no_noise())
    assert_close(score.cost, np.array([4.0, 0.0, 1.0]))
    assert_close(score.margin, np.array([2.0, -6.5, 0.5]))
    for c, limit in enumerate((2.0, 10.0, 3.0)):
        one = rollout.evaluate(Line(limit), sampled("MEAN"), START, ACTIONS, no_noise())
        assert_close((one.cost[0], one.margin[0]), (score.cost[c], score.margin[c]))
        assert_close(one.value, score.value)


def test_margin_of_a_safe_path_is_its_closest_call():
    score = rollout.evaluate(Line(10.0), sampled("MEAN"), START, ACTIONS, no_noise())
    assert_close((score.cost, score.margin), (np.zeros(1), np.array([-6.5])))


def test_reward_and_cost_are_judged_where_the_adversary_says():
    transition = rollout.hallucinated_transition(Drift(), 0.0, LINE, 0.0, 2.0)
    push = rollout.Push(jnp.ones((H, 2)))
    score = rollout.evaluate(LINE, transition, START, ACTIONS, push)
    extra = 2.0 * AL[0]  # at next_obs alone: it is not carried to the next obs
    assert_close(score.value, (207.5 + 241.5 + 173.5) / 3.0 + extra)
    excess = 1.5 + 0.5 + 2.5 + 3.0 * extra
    assert_close(score.cost, np.array([2.0 * excess]))
    assert_close(score.margin, np.array([excess]))


# The pendulum.


@pytest.fixture(scope="module")
def pendulum():
    return Pendulum.from_config(speed_threshold=0.5)


def torques(amount):
    return jnp.full((10, 1), amount)


@pytest.fixture(scope="module")
def swing(pendulum):
    """The first observation and ten steps of the simulator."""

    @jit
    def run(key, actions):
        def advance(state, action):
            step = pendulum.step(key, state, action)
            return step.state, step

        state = pendulum.state_at(3.0, 0.2)
        return pendulum.observe(state), jax.lax.scan(advance, state, actions)[1]

    return run(jax.random.key(1), torques(0.5))


def test_rollout_of_the_true_dynamics_is_the_simulator(pendulum, swing):
    obs, steps = swing
    transition = sampled("MEAN", TrueDynamics(pendulum), pendulum, pendulum)
    noise = Noise(jnp.zeros((10, 3)), jnp.zeros(10, jnp.int32))
    path = rollout.trajectory(transition, obs, torques(0.5), noise)
    assert_close(path, steps.obs, rtol=1e-4, atol=1e-5)
    score = rollout.evaluate(pendulum, transition, obs, torques(0.5), noise)
    assert_close(score.value, steps.reward.mean(), rtol=1e-4)
    assert 0 < steps.cost.sum() < 10
    assert_close(score.cost, steps.cost.sum(0))
    excess = jnp.maximum(jnp.abs(steps.obs[:, 2:]) - 0.5, 0.0).sum(0)
    assert_close(score.margin, excess, rtol=1e-4)


class Broad(TrueDynamics):
    """The true mean with a large epistemic std."""

    def predict(self, state, obs, action):
        p = super().predict(state, obs, action)
        return p._replace(epistemic_std=jnp.full(3, 0.2))


@pytest.mark.parametrize("adversary", [False, True])
def test_imagined_states_are_on_the_unit_circle(pendulum, swing, adversary):
    model = Broad(pendulum)
    inputs = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    if adversary:
        transition = rollout.hallucinated_transition(
            model, pendulum, pendulum, 50.0, 1.0
        )
        inputs = rollout.Push(inputs)
    else:
        transition = sampled("DIST", model, pendulum, pendulum)
        inputs = Noise(inputs, jnp.zeros(10, jnp.int32))
    path = rollout.trajectory(transition, swing[0], torques(0.5), inputs)
    assert_close(np.hypot(path[:, 0], path[:, 1]), np.ones(10))
    assert jnp.abs(path[:, 2]).max() <= pendulum.params.max_speed


# Particles sorted by member.


class Turning(Pendulum):
    """A second constraint: not to turn below the horizontal on the right."""

    limit_names = ("|omega|", "sin theta")
    limit_units = ("rad/s", "1")

    def margin(self, obs, action, next_obs):
        return jnp.stack([jnp.abs(next_obs[2]) - 0.5, next_obs[1] - 0.1])


@pytest.mark.parametrize("mode", ["TS1", "TSInf"])
@pytest.mark.parametrize("particles", [1, 2, 3, 6, 8])
def test_particles_sorted_by_member_score_as_one_by_one(mode, particles):
    """The fast path against the slow one, with the members of a real ensemble."""
    env = Turning.from_config()
    model = probabilistic_ensemble(
        3, 1, EnsembleConfig(features=(6,), num_ensembles=3), CalibrationConfig()
    )
    key, noise_key = jax.random.split(jax.random.key(2))
    state = model.init(key)._replace(scale=jnp.array([1.0, 2.0, 3.0]))
    obs = env.observe(env.state_at(3.0, 0.2))
    noise = rollout.draw_noise(noise_key, mode, particles, 10, 3, 3)
    transition = sampled(mode, model, env, state)

    @jit
    def slow(actions):
        return jax.vmap(
            lambda noise: rollout.evaluate(env, transition, obs, actions, noise)
        )(noise)

    @jit
    def fast(actions):
        return rollout.evaluate_by_member(env, model, state, obs, actions, noise)

    expected = slow(torques(0.5))
    assert_close(fast(torques(0.5)), expected, rtol=1e-4, atol=1e-5)
    # The members differ, or any order would have passed.
    assert particles == 1 or np.ptp(expected.value) > 1e-3
    assert expected.cost.shape == expected.margin.shape == (particles, 2)


def test_members_are_dealt_evenly_at_every_step():
    asked = np.asarray(rollout.draw_noise(jax.random.key(0), "TS1", 7, 50, 2, 5).member)
    counts = np.array([np.bincount(step, minlength=5) for step in asked.T])
    assert counts.min() == 1
    assert counts.max() == 2
    assert np.all(np.ptp(counts, axis=0) > 0)


# What an adversary may afford over a whole rollout.


def test_an_adversary_within_its_reach_is_left_alone():
    eta = jnp.array([[1.0, -0.5], [0.0, 0.0], [-0.6, 0.8]])
    for steps in (1.64, 2.0, np.inf):
        assert_close(rollout.affordable(eta, steps), 1.0)
    assert_close(rollout.affordable(jnp.zeros((3, 2)), 1.0), 1.0)


@pytest.mark.parametrize("held", [0, 4])
def test_an_adversary_spends_its_steps_and_no_more(held):
    eta = jax.random.uniform(jax.random.key(0), (6, 2), minval=-1.0)
    pushes = np.asarray(rollout.affordable(eta, 1.5, held) * eta)
    through = np.concatenate([pushes, np.repeat(pushes[-1:], held, axis=0)])
    assert (np.abs(through).max(1) ** 2).sum() == pytest.approx(1.5, rel=1e-5)


def test_one_step_is_the_quantile_of_independent_errors():
    # x_T = sum_t w_t e_t with e_t ~ N(0, 1): its std is |w|, and so is the worst push.
    weights = jnp.array([0.3, 1.0, -2.0, 0.7])

    def pushed(eta, steps):
        return rollout.affordable(eta[:, None], steps) * eta @ weights

    etas = jax.random.uniform(jax.random.key(0), (100_000, 4), minval=-1.0)
    found = jax.vmap(lambda eta: pushed(eta, 1.0))(etas).max()
    std = float(jnp.linalg.norm(weights))
    assert 0.98 * std < float(found) <= std + 1e-5
    assert_close(pushed(weights / jnp.abs(weights).max(), 1.0), std)
    # Errors that last all four steps add up instead: that is the box.
    assert_close(pushed(jnp.sign(weights), 4.0), 4.0)


def test_the_reach_has_a_finite_slope_where_nothing_is_pushed():
    def pushes(eta, steps):
        return (rollout.affordable(eta, steps) * eta).sum()

    for steps in (1.0, np.inf):
        slope = jax.grad(pushes)(jnp.zeros((3, 2)), steps)
        assert_close(slope, jnp.ones((3, 2)))
    # Nor does the absence of a limit stop an adversary from climbing.
    assert_close(jax.grad(pushes)(jnp.ones((3, 2)), np.inf), jnp.ones((3, 2)))
