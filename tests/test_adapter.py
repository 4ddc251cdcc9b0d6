"""The contract that environments of other packages are held to."""

import foreign
import gymnasium
import numpy as np
import pytest

from safex.config.suites import GymnasiumConfig, SafetyGymnasiumConfig
from safex.envs.suites import adapter, registered, tasks
from safex.errors import ConfigError, ContractError, NonFiniteError


def test_observations_are_float32_and_a_seed_settles_them():
    env = foreign.make()
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    other, _ = env.reset(seed=4)
    assert first.dtype == np.float32
    assert first.shape == env.observation_space.shape
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_actions_are_scaled_to_the_box_and_clipped():
    env = foreign.make(max_steps=9)
    env.reset(seed=0)
    for action in (-1.0, 0.0, 1.0, 7.0):
        env.step(np.array([action]))
    np.testing.assert_allclose(np.ravel(env.foreign.taken), [-2, 1, 4, 4])


@pytest.mark.parametrize("six", [False, True])
def test_cost_of_five_values_and_of_six(six):
    env = foreign.make(six=six)
    env.reset(seed=0)
    past = [env.step(np.ones(1)) for _ in range(6)]
    costs = [step[4]["cost"] for step in past]
    assert costs == [float(step[0][0] > 1) for step in past]
    assert 0 < sum(costs) < 6
    assert past[0][4]["costs"].shape == (1,)


def test_several_costs_by_name():
    env = foreign.make(costs=("cost", "cost_past"))
    env.reset(seed=0)
    assert env.step(np.ones(1))[4]["costs"].tolist() == [0.0, 0.0]


def test_a_time_limit_truncates_and_an_end_terminates():
    env = foreign.make(max_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
    env = foreign.make(max_steps=50)
    env.reset(seed=0)
    while not (end := env.step(np.ones(1))[2:4])[0]:
        assert end == (False, False)
    assert end == (True, False)


@pytest.mark.parametrize(
    ("breaks", "error", "words"),
    [
        ("no cost", ContractError, r"Slope gives no cost.*info\['cost'\].*docs/suites"),
        ("negative", ContractError, "Slope gives a negative cost"),
        ("nan", NonFiniteError, "Slope: the observation of step 3 is not finite"),
    ],
)
def test_what_breaks_the_contract_is_named(breaks, error, words):
    env = foreign.make(breaks=breaks)
    env.reset(seed=0)
    with pytest.raises(error, match=words):
        for _ in range(3):
            env.step(np.zeros(1))


def test_a_cost_by_a_name_that_is_not_said():
    env = foreign.make(costs=("cost_hazards",))
    env.reset(seed=0)
    with pytest.raises(ContractError, match=r"no cost 'cost_hazards', it says \['cost"):
        env.step(np.zeros(1))


def test_an_action_that_is_not_finite_or_has_another_shape():
    env = foreign.make()
    env.reset(seed=0)
    with pytest.raises(NonFiniteError, match="the action of step 0"):
        env.step(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"shape \(1,\), got \(2,\)"):
        env.step(np.zeros(2))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gymnasium.spaces.Discrete(3), "action space Discrete.*continuous actions"),
        (gymnasium.spaces.Box(-np.inf, np.inf, (1,)), "actions without bounds"),
        (gymnasium.spaces.Box(-1, 1, (2, 2)), "must be a Box of one axis"),
    ],
)
def test_action_spaces_that_are_refused(space, words):
    with pytest.raises(ContractError, match=f"environment Slope has.*{words}"):
        foreign.make(action_space=space)


def test_a_dict_of_observations_is_refused():
    with pytest.raises(ContractError, match=r"observation space Dict.*Flatten"):
        foreign.make(obs_space=gymnasium.spaces.Dict(image=foreign.BOX))


def test_registered_environments_have_their_own_time_limit_or_the_given():
    assert tasks.Gymnasium.from_config(id="Slope-v0").max_steps == 9
    shorter = GymnasiumConfig(id="Slope-v0", max_steps=4, module="foreign")
    task = tasks.Gymnasium.from_config(shorter)
    assert (task.max_steps, task.obs_dim, task.action_dim) == (4, 2, 1)
    assert task.limit_names == ("cost",)
    assert task.limit_units == ("cost a step",)
    assert task.limits.tolist() == [0.0]
    longer = registered.open_task(GymnasiumConfig(id="Slope-v0", max_steps=12))
    longer.reset(seed=0)
    assert [longer.step(np.zeros(1))[3] for _ in range(12)] == [False] * 11 + [True]


def test_registered_environments_that_are_refused():
    with pytest.raises(ContractError, match="Endless-v0 has no fixed horizon"):
        tasks.Gymnasium.from_config(id="Endless-v0")
    with pytest.raises(ContractError, match="Costless-v0 gives no cost"):
        tasks.Gymnasium.from_config(id="Costless-v0")
    with pytest.raises(ContractError, match="CartPole-v1 has the action space Discr"):
        tasks.Gymnasium.from_config(id="CartPole-v1")
    with pytest.raises(ConfigError, match="no task 'Slope-v3', did you mean Slope-v0"):
        tasks.Gymnasium.from_config(id="Slope-v3")
    with pytest.raises(ConfigError, match=r"env\.module nothing_here cannot"):
        tasks.Gymnasium.from_config(id="Slope-v0", module="nothing_here")


def test_settings_that_mean_nothing():
    with pytest.raises(ValueError, match="id must name a task"):
        GymnasiumConfig(id="")
    with pytest.raises(ValueError, match="max_steps must be >= 1"):
        SafetyGymnasiumConfig(max_steps=0)
    with pytest.raises(ValueError, match="workers must be >= 0"):
        SafetyGymnasiumConfig(workers=-1)
    with pytest.raises(ValueError, match="costs must be one name or more"):
        SafetyGymnasiumConfig(costs=())


def test_a_missing_package_says_how_it_is_installed():
    with pytest.raises(ConfigError, match=r"needs no_such_package.*make install-suit"):
        adapter.require_package("no_such_package", "The suite")


def test_frames_are_asked_for_when_an_environment_is_made():
    with pytest.raises(ConfigError, match="make it with render_mode='rgb_array'"):
        foreign.make().render()
