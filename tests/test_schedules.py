import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import ScheduleConfig
from safex.schedules import scheduled
from tests.helpers import assert_close


def values(config, initial, episodes):
    return scheduled(config, initial, jnp.array(episodes))


@pytest.mark.parametrize(
    ("midpoint", "episodes", "expected"),
    [
        (10.0, [1, 5, 10, 20, 50], [1.191, 1.445, 2.0, 2.848, 3.0]),
        (20.0, [1, 10, 20, 30, 50], [1.017, 1.152, 2.0, 2.848, 2.999]),
    ],
)
def test_sigmoid_has_the_values_of_the_study(midpoint, episodes, expected):
    schedule = ScheduleConfig(kind="sigmoid", final=3.0, scale=0.25, midpoint=midpoint)
    got = values(schedule, 1.0, episodes)
    assert_close(got, np.array(expected), rtol=0.0, atol=5.1e-4)


def test_linear_arrives_and_stays():
    schedule = ScheduleConfig(kind="linear", final=3.0, num_episodes=4)
    got = values(schedule, 1.0, [0, 1, 2, 4, 9])
    assert_close(got, np.array([1.0, 1.5, 2.0, 3.0, 3.0]))


def test_schedules_may_fall():
    schedule = ScheduleConfig(kind="linear", final=0.0, num_episodes=2)
    assert_close(values(schedule, 2.0, [1, 2]), np.array([1.0, 0.0]))


def test_constant_never_moves():
    for episode in (0, 1, 50):
        assert_close(values(ScheduleConfig(final=9.0), 2.0, episode), 2.0)


def test_the_episode_is_traced():
    value = jax.jit(lambda e: scheduled(ScheduleConfig(kind="sigmoid"), 1.0, e))
    for episode in (1, 2, 3):
        value(episode)
    assert value._cache_size() == 1


@pytest.mark.parametrize(
    ("field", "value"), [("kind", "cosine"), ("num_episodes", 0), ("final", -1.0)]
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        ScheduleConfig(**{field: value})
