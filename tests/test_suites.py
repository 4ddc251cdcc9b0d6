"""The safety suites themselves: sizes, costs against the published geometry, seeds.

They need what `make install-suites` installs; `make test-suites` runs them.
"""

import functools
import importlib.util

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from safex.envs.suites import bullet, tasks
from safex.envs.suites.safety_gymnasium import GoalsGoOn
from safex.errors import ConfigError, ContractError

KEY = jax.random.key(0)


def needs(module):
    missing = importlib.util.find_spec(module) is None
    reason = f"{module} is not installed: make install-suites"
    return pytest.mark.skipif(missing, reason=reason)


safety = needs("safety_gymnasium")
balls = needs("bullet_safety_gym")


def opened(task_class, name, **settings):
    return task_class._open(task_class.config_class(id=name, **settings))


navigation = functools.partial(opened, tasks.SafetyGymnasium)
bulleted = functools.partial(opened, tasks.BulletSafetyGym)


def steer(env, target):
    """Drives the point robot towards a place: forward, turning by the angle to it."""
    agent = env.foreign.task.agent
    offset = (np.asarray(target)[:2] - agent.pos[:2]) @ agent.mat[:2, :2]
    angle = np.arctan2(offset[1], offset[0])
    return np.array([np.cos(angle) > 0.5, np.clip(2 * angle, -1, 1)], np.float32)


SIZES = {
    "SafetyPointGoal1-v0": (60, 2, 1000),
    "SafetyPointGoal2-v0": (60, 2, 1000),
    "SafetyCarGoal1-v0": (72, 2, 1000),
    "SafetyPointButton1-v0": (76, 2, 1000),
    "SafetyCarButton1-v0": (88, 2, 1000),
    "SafetyPointPush1-v0": (76, 2, 1000),
    "SafetyPointCircle1-v0": (28, 2, 500),
    "SafetyCarCircle1-v0": (40, 2, 500),
    "SafetyHalfCheetahVelocity-v1": (17, 6, 1000),
    "SafetyHopperVelocity-v1": (11, 3, 1000),
    "SafetySwimmerVelocity-v1": (8, 2, 1000),
    "SafetyWalker2dVelocity-v1": (17, 6, 1000),
    "SafetyAntVelocity-v1": (27, 8, 1000),
    "SafetyHumanoidVelocity-v1": (376, 17, 1000),
}


@safety
@pytest.mark.parametrize("name", SIZES)
def test_safety_gymnasium_sizes_and_horizons(name):
    env = navigation(name)
    obs, _ = env.reset(seed=0)
    assert (*obs.shape, *env.action_space.shape, env.max_steps) == SIZES[name]
    assert env.observation_space.contains(obs)
    assert env.step(np.zeros(env.action_space.shape))[4]["cost"] >= 0


@safety
def test_a_hazard_costs_within_its_radius():
    env = navigation("SafetyPointGoal1-v0", costs=("cost", "cost_hazards"))
    costs = []
    for seed in range(3):
        env.reset(seed=seed)
        task = env.foreign.task
        hazards = np.array([task.data.body(f"hazard{i}").xpos for i in range(8)])
        nearest = hazards[np.argmin(np.linalg.norm(hazards - task.agent.pos, axis=1))]
        for _ in range(120):
            costs.append(env.step(steer(env, nearest))[4]["costs"].tolist())
            place = task.data.body("agent").xpos[:2]
            inside = np.linalg.norm(hazards[:, :2] - place, axis=1).min() <= 0.2
            assert costs[-1] == [inside, inside]
    assert 10 < sum(cost for cost, _ in costs) < 300


@safety
@pytest.mark.parametrize(("level", "walls"), [(1, [0]), (2, [0, 1])])
def test_circle_costs_past_its_walls(level, walls):
    env = navigation(f"SafetyPointCircle{level}-v0")
    for seed, target in enumerate([(9, 0), (-9, 0), (0, 9)]):
        env.reset(seed=seed)
        costs = []
        for _ in range(150):
            costs.append(env.step(steer(env, target))[4]["cost"])
            place = np.abs(env.foreign.task.data.body("agent").xpos)
            assert costs[-1] == (place[walls] > 1.125).any()
        # Past the wall across y, only the second level costs.
        assert any(costs) == (target[0] != 0 or level == 2)


@safety
@pytest.mark.parametrize(
    ("robot", "threshold", "axes"),
    [("HalfCheetah", 3.2096, 1), ("Hopper", 0.7402, 1), ("Swimmer", 0.2282, 2)],
)
def test_velocity_costs_past_its_threshold(robot, threshold, axes):
    env = navigation(f"Safety{robot}Velocity-v1")
    foreign = env.foreign
    costs = []
    for factor in (0.5, 2.0):
        env.reset(seed=0)
        speed = foreign.data.qvel.copy()
        speed[0] = factor * threshold
        foreign.set_state(foreign.data.qpos.copy(), speed)
        before = foreign.data.qpos[:axes].copy()
        costs.append(env.step(np.zeros(env.action_space.shape))[4]["cost"])
        moved = foreign.data.qpos[:axes] - before
        assert costs[-1] == (np.linalg.norm(moved) / foreign.dt > threshold)
    assert costs == [0.0, 1.0]


@safety
def test_a_seed_gives_a_layout_and_others_another():
    env = navigation("SafetyPointGoal1-v0")

    def layout(seed):
        env.reset(seed=seed)
        return [env.foreign.task.data.body(f"hazard{i}").xpos.copy() for i in range(8)]

    first, other, again = layout(1), layout(2), layout(1)
    assert_close(first, again, rtol=0, atol=0)
    assert np.abs(np.array(first) - other)[:, :2].min() > 1e-3
    env.reset()  # without a seed too, it is drawn anew
    free = [env.foreign.task.data.body(f"hazard{i}").xpos.copy() for i in range(8)]
    assert np.abs(np.array(first) - free)[:, :2].min() > 1e-3


@safety
@pytest.mark.parametrize("max_steps", [None, 7, 510])
def test_safety_gymnasium_episodes_last_as_long_as_they_should(max_steps):
    env = navigation("SafetyPointCircle1-v0", max_steps=max_steps)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(max_steps or 500)]
    assert ends[-1] == (False, True)
    assert not any(map(any, ends[:-1]))


@safety
def test_no_place_for_a_goal_truncates():
    env = navigation("SafetyPointGoal1-v0")
    env.reset(seed=0)

    class NoPlace(gymnasium.Wrapper):
        def step(self, action):
            obs, reward, cost, *_ = self.env.step(action)
            return obs, reward, cost, True, False, {"goal_met": True}

    assert GoalsGoOn(NoPlace(env.foreign)).step(np.zeros(2))[3:5] == (False, True)


@safety
def test_tasks_of_safety_gymnasium_that_are_refused():
    with pytest.raises(ConfigError, match="did you mean SafetyPointGoal"):
        navigation("SafetyPointGoal7-v0")
    with pytest.raises(ContractError, match=r"SafetyPointGoal1Vision-v0.*Dict"):
        navigation("SafetyPointGoal1Vision-v0")


@balls
@pytest.mark.parametrize("name", bullet.IDS)
def test_a_seed_gives_the_same_episode_whatever_came_before(name):
    first, second = bulleted(name), bulleted(name)
    shape = first.action_space.shape

    def episode(env, seed):
        actions = np.random.RandomState(seed).uniform(-1, 1, (25, *shape))
        steps = [env.reset(seed=seed)[0]]
        for action in actions:
            obs, reward, terminated, *_, info = env.step(action)
            steps += [obs, np.float32(reward), info["costs"]]
            if terminated:
                break
        return steps

    wanted = episode(first, 1)
    episode(first, 2)
    episode(second, 3)
    before = np.random.get_state()[1].copy()
    assert_close(episode(first, 1), wanted, rtol=0, atol=0)
    assert_close(episode(second, 1), wanted, rtol=0, atol=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    other = first.reset(seed=4)[0]
    assert not np.allclose(wanted[0], other)
    if name == "SafetyBallCircle-v0":
        assert (*other.shape, *shape, first.max_steps) == (8, 2, 200)
    first.close()
    second.close()


@balls
@pytest.mark.parametrize("robot", ["Ball", "Car"])
def test_bullet_circle_costs_past_its_bounds(robot):
    env = bulleted(
        f"Safety{robot}Circle-v0", costs=("cost", "cost_outside_bounds"), max_steps=450
    )
    costs = []
    for seed in range(2):
        obs, _ = env.reset(seed=seed)
        assert 2 - 1e-3 <= 10 * np.linalg.norm(obs[:2]) <= 4 + 0.1
        truncated = False
        while not truncated:
            obs, _, terminated, truncated, info = env.step(np.array([-1.0, 0.0]))
            assert not terminated
            assert np.isclose(10 * obs[-1], 10 * np.linalg.norm(obs[:2]) - 7, atol=1e-4)
            costs.append(info["cost"])
            assert info["costs"].tolist() == [10 * abs(obs[0]) > 6] * 2
            assert info["cost"] == info["costs"][0]
    assert 0 < sum(costs) < len(costs)


@balls
def test_bullet_run_costs_too_fast_or_aside():
    env = bulleted("SafetyBallRun-v0", costs=("cost", "cost_velocity_violation"))
    env.reset(seed=0)
    costs = []
    for _ in range(100):
        obs, *_, info = env.step(np.array([1.0, 0.0]))
        speed = 5 * np.linalg.norm(obs[2:4])
        assert info["costs"][1] == (speed > 2.5)
        assert info["costs"][0] == (speed > 2.5 or abs(10 * obs[1]) > 2)
        costs.append(info["costs"][1])
    assert 0 < sum(costs) < 100


def rollouts(task, workers):
    vector = type(task)(
        type(task.settings)(**{**vars(task.settings), "workers": workers}), task.facts
    ).make_vector(2)

    def policy(key, obs):
        return jax.random.uniform(key, (2, task.action_dim), minval=-1.0)

    with vector:
        first = vector.rollout(KEY, *vector.reset(KEY), policy, 18)
        return first, vector.rollout(KEY, *first[0], policy, 10)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param((tasks.SafetyGymnasium, "SafetyPointGoal1-v0"), marks=safety),
        pytest.param((tasks.BulletSafetyGym, "SafetyCarRun-v0"), marks=balls),
    ],
    ids=lambda pair: pair[1],
)
def test_processes_step_suites_to_the_last_digit(task):
    made = task[0].from_config(id=task[1], max_steps=12)
    local, onwards = rollouts(made, workers=0)
    remote = rollouts(made, workers=2)
    assert_close(remote, (local, onwards), rtol=0, atol=0)
    rows = local[1]
    assert rows.truncated[11].all()
    assert not rows.truncated[:11].any()
    assert not np.allclose(rows.next_obs[11], rows.obs[12])
    # A process that has seen nothing of it goes on from the saved state.
    with made.make_vector(2) as vector:
        saved = jax.tree.map(jnp.asarray, local[0])

        def policy(key, obs):
            return jax.random.uniform(key, (2, made.action_dim), minval=-1.0)

        assert_close(vector.rollout(KEY, *saved, policy, 10), onwards, rtol=0, atol=0)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param((tasks.SafetyGymnasium, "SafetyPointGoal1-v0"), marks=safety),
        pytest.param((tasks.BulletSafetyGym, "SafetyBallCircle-v0"), marks=balls),
    ],
    ids=lambda pair: pair[1],
)
def test_frames_where_the_machine_can_draw(task):
    try:
        env = task[0]._open(task[0].config_class(id=task[1]), render_mode="rgb_array")
        env.reset(seed=0)
        env.step(np.zeros(2))
        frame = env.render()
    except ConfigError as error:
        assert "libegl1 or libosmesa6" in str(error) or "MUJOCO_GL" in str(error)
        pytest.skip(str(error))
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    assert frame.dtype == np.uint8
    assert frame.std() > 1
    env.close()
