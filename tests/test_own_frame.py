import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex import rollout
from safex.config import CalibrationConfig, EnsembleConfig
from safex.envs.pendulum import Pendulum
from safex.envs.point_goal import PointGoal
from safex.envs.rc_car import RCCar
from safex.models.ensemble import probabilistic_ensemble
from safex.models.own_frame import OwnFrameModel, has_frame
from safex.types import Dataset, Prediction, Transition
from tests.helpers import assert_close

CAR = RCCar.from_config()
SYSTEMS = [
    CAR,
    RCCar.from_config(tyres=True),
    PointGoal.from_config(random_goal=True),
]
LEARNED = probabilistic_ensemble(
    7, 2, EnsembleConfig(num_ensembles=2, num_training_steps=200), CalibrationConfig()
)
MODEL = OwnFrameModel(CAR, LEARNED)
CAPACITY = 220


def far_apart(system, number):
    """Observations at all places and headings, with actions."""
    keys = jax.random.split(jax.random.key(0), number)
    obs = jax.jit(jax.vmap(lambda key: system.observe(system.far_state(key))))(keys)
    shape = (number, system.action_dim)
    return obs, jax.random.uniform(jax.random.key(1), shape, minval=-1.0, maxval=1.0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_is_seen_is_put_back_where_it_is(system):
    obs, _ = far_apart(system, 20)
    origin = obs[::-1]
    seen = jax.vmap(system.to_frame)(origin, obs)
    assert_close(jax.vmap(system.from_frame)(origin, seen), obs, atol=1e-5)
    own = np.asarray(jax.vmap(system.to_frame)(obs, obs))
    assert_close(own[:, :4], np.tile([0.0, 0.0, 1.0, 0.0], (20, 1)), atol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_moves_alike_wherever_it_is(system):
    obs, action = far_apart(system, 20)
    step, see = jax.jit(jax.vmap(system.dynamics)), jax.vmap(system.to_frame)
    there = see(obs, step(obs, action))
    assert_close(step(see(obs, obs), action), there, rtol=1e-3, atol=1e-4)


def test_the_goal_turns_with_the_robot():
    system = SYSTEMS[2]
    # At (1, 1), looking along y; the goal is 2 m ahead.
    obs = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.5, 0.3, 0.0, 2.0])
    own = [0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0.3, 2.0, 0.0]
    assert_close(system.to_frame(obs, obs), jnp.array(own), atol=1e-6)


@pytest.fixture(scope="module")
def fitted():
    """What is learned while the car looks along x, near the origin."""
    key, speed_key = jax.random.split(jax.random.key(2))
    action = jax.random.uniform(key, (200, 2), minval=-1.0, maxval=1.0)
    speed = jax.random.uniform(speed_key, (200, 3), minval=-1.0, maxval=1.0)
    pose = jnp.tile(jnp.array([0.0, 0.0, 1.0, 0.0]), (200, 1))
    obs = jnp.concatenate([pose, speed], axis=1)
    next_obs = jax.jit(jax.vmap(CAR.dynamics))(obs, action)
    none, zero = jnp.zeros(200, bool), jnp.zeros(200)
    rows = Transition(obs, action, zero, zero[:, None], next_obs, none, none)
    padded = jax.tree.map(
        lambda leaf: jnp.concatenate(
            [leaf, jnp.zeros((20, *leaf.shape[1:]), leaf.dtype)]
        ),
        rows,
    )
    data = Dataset(padded, jnp.array(200))
    state, _ = jax.jit(MODEL.fit)(
        jax.random.key(3), MODEL.init(jax.random.key(4)), data
    )
    return state, data


def test_what_was_learned_holds_at_every_place_and_heading(fitted):
    state, data = fitted
    obs, action = data.transitions.obs[:50], data.transitions.action[:50]
    predict = jax.jit(jax.vmap(MODEL.predict, (None, 0, 0)))
    here = predict(state, obs, action)
    # The same cars, a turn of 2 rad and a few metres away.
    origin = jnp.array([3.0, -2.0, jnp.cos(2.0), jnp.sin(2.0), 0.0, 0.0, 0.0])
    move = jax.vmap(lambda o: CAR.from_frame(origin, o))
    there = predict(state, move(obs), action)
    assert_close(there.mean, move(here.mean), rtol=1e-3, atol=1e-4)
    error = np.asarray(move(data.transitions.next_obs[:50]) - there.mean)
    std = np.hypot(there.epistemic_std, there.aleatoric_std)
    assert (np.abs(error) < 3.0 * std).mean() > 0.9
    # Beside the model of the world, to which another heading is new.
    plain, _ = jax.jit(LEARNED.fit)(
        jax.random.key(3), LEARNED.init(jax.random.key(4)), data
    )
    world = jax.jit(jax.vmap(LEARNED.predict, (None, 0, 0)))
    assert world(plain, move(obs), action).epistemic_std[:, 4].mean() > 10 * np.mean(
        there.epistemic_std[:, 4]
    )


def test_stds_turn_with_the_frame(fitted):
    state, data = fitted
    obs, action = data.transitions.obs[0], data.transitions.action[0]
    angle = 0.7
    origin = jnp.array([1.0, 1.0, jnp.cos(angle), jnp.sin(angle), 0.0, 0.0, 0.0])
    inner = LEARNED.predict(state, obs, action)
    found = MODEL.predict(state, CAR.from_frame(origin, obs), action)
    for name in Prediction._fields[1:]:
        own, turned = np.asarray(getattr(inner, name)), np.asarray(getattr(found, name))
        cos, sin = np.cos(angle), np.sin(angle)
        for i in (0, 2, 4):
            pair = [
                np.hypot(cos * own[i], sin * own[i + 1]),
                np.hypot(sin * own[i], cos * own[i + 1]),
            ]
            assert_close(turned[i : i + 2], np.array(pair), rtol=1e-3, atol=1e-7)
        assert_close(turned[6], own[6], rtol=1e-3)


def test_members_are_those_of_the_model_inside(fitted):
    state, _ = fitted
    obs, action = far_apart(CAR, 6)
    together = MODEL.members(state, obs.reshape(2, 3, 7), action.reshape(2, 3, 2))
    for e in range(2):
        for s in range(3):
            row = 3 * e + s
            alone = MODEL.member(state, obs[row], action[row], jnp.array(e))
            one = jax.tree.map(lambda leaf, e=e, s=s: leaf[e, s], together)
            assert_close(one, alone, rtol=1e-3, atol=1e-4)


def test_only_systems_in_the_plane_have_a_frame():
    assert all(map(has_frame, SYSTEMS))
    assert not has_frame(Pendulum.from_config())


@pytest.mark.parametrize("model", [MODEL, LEARNED], ids=["own frame", "world"])
def test_the_rollout_of_the_mean_is_the_same_by_stages_and_at_once(model):
    class AtOnce:
        """The same beliefs from `predict` alone."""

        predict = staticmethod(model.predict)

    state = model.init(jax.random.key(2))
    # Everything is new to a process of amplitude 1 that has seen nothing.
    process = state.novelty.process
    process = process._replace(amplitude=jnp.ones_like(process.amplitude))
    known = jnp.full((), 0.5)
    state = state._replace(novelty=state.novelty._replace(process=process, known=known))
    obs, actions = far_apart(CAR, 6)

    def walk(model):
        return jax.jit(lambda: rollout.trace_mean(CAR, model, state, obs[0], actions))()

    score, stds = walk(model)
    assert_close((score, stds), walk(AtOnce()), rtol=1e-4, atol=1e-5)
    assert np.all(stds.epistemic.min(1) > 0.0)
    assert np.ptp(np.asarray(stds.epistemic), axis=0).max() > 1e-3
