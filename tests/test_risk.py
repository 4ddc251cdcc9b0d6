"""Risks of the cost over particles and members, by hand and in the planners."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex import rollout
from safex.agents.planners import PesTraj, Safe, Situation
from safex.config import PesTrajConfig, RiskConfig, SafeConfig
from safex.models.true_dynamics import TrueDynamics
from safex.returns import (
    conditional_value_at_risk,
    group_means,
    upper_confidence_bound,
)
from safex.types import Prediction
from tests.helpers import assert_close

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).gamma(1.0, size=(12, 2)), jnp.float32)


# The measures.


def test_cvar_takes_the_last_sample_in_part():
    x = jnp.array([1.0, 4.0, 2.0, 8.0])
    # The worst 1.5 of 4 samples: (8 + 4 / 2) / 1.5.
    assert_close(conditional_value_at_risk(x, 0.625), jnp.float32(10.0 / 1.5))
    assert_close(conditional_value_at_risk(x, 0.9), jnp.float32(8.0))


def test_cvar_is_the_least_of_its_dual():
    # Rockafellar and Uryasev: min_t t + E max(x - t, 0) / (1 - level).
    t = jnp.linspace(0.0, X.max(), 20001)[:, None]
    for level in (0.2, 0.55, 0.8):
        excess = jnp.maximum(X[None, :, 0] - t, 0.0).mean(1) / (1.0 - level)
        expected = (t[:, 0] + excess).min()
        found = conditional_value_at_risk(X[:, 0], level)
        assert_close(found, expected, rtol=0.0, atol=1e-3)


def test_risks_run_from_mean_to_max_for_each_constraint():
    levels = [conditional_value_at_risk(X, level) for level in (0.0, 0.3, 0.77, 1.0)]
    assert_close(levels[0], X.mean(0))
    assert_close(levels[-1], X.max(0))
    assert np.all(np.diff(np.stack(levels), axis=0) > 0)
    assert_close(levels[2][1], conditional_value_at_risk(X[:, 1], 0.77))


def test_ucb_by_hand():
    x = jnp.array([[1.0], [3.0], [5.0], [7.0]])
    assert_close(upper_confidence_bound(x, 2.0), jnp.array([4.0 + 2.0 * np.sqrt(5.0)]))
    assert_close(upper_confidence_bound(X, 0.0), X.mean(0))


def test_group_means_by_hand():
    x = jnp.array([[1.0, 0.0], [2.0, 10.0], [6.0, 0.0]])
    found = group_means(x, jnp.array([1, 0, 1]), 2)
    assert_close(found, jnp.array([[2.0, 10.0], [3.5, 0.0]]))


# In the planners.


class Track:
    """Cost is how far the two coordinates are past 1 and past -1."""

    obs_dim = 2
    action_dim = 1
    num_constraints = 2

    def reward(self, obs, action, next_obs):
        return next_obs[0]

    def cost(self, obs, action, next_obs):
        return jnp.maximum(self.margin(obs, action, next_obs), 0.0)

    def margin(self, obs, action, next_obs):
        return next_obs - jnp.array([1.0, -1.0])

    def project(self, obs):
        return obs


@dataclasses.dataclass(frozen=True)
class Members:
    """Member i adds i to the first coordinate and takes i from the second."""

    al: float = 0.5
    num_members = 3

    def predict(self, state, obs, action):
        return Prediction(obs, jnp.ones(2), jnp.full(2, self.al))

    def members(self, state, obs, action):
        shift = jnp.arange(3.0)[:, None, None] * jnp.array([1.0, -1.0])
        mean = obs + shift + 0.0 * action.sum()
        return Prediction(mean, jnp.zeros_like(mean), jnp.full_like(mean, self.al))

    def select(self, state, index):
        return state

    def member(self, state, obs, action, index):
        mean = obs + index * jnp.array([1.0, -1.0])
        return Prediction(mean, jnp.zeros(2), jnp.full(2, self.al))


TRACK = Track()
H, P = 2, 12
ACTIONS = jnp.zeros((H, 1))
SITUATION = Situation(jnp.zeros(2), 0.0, jnp.zeros(2), jnp.zeros(2))


def particles(key=KEY, model=Members()):
    """Scores `[P]` and members `[P]` of what the planners draw with a key."""
    noise = rollout.draw_noise(key, "TSInf", P, H, 2, 3)
    scores = rollout.evaluate_by_member(
        TRACK, model, 0.0, SITUATION.obs, ACTIONS, noise
    )
    return scores, noise.member[:, 0]


def scored(planner, model=Members()):
    @jit
    def run(actions):
        return planner.problem(KEY, TRACK, model, SITUATION)(actions)

    return run(ACTIONS)


def safe(kind, **settings):
    return Safe(H, "TSInf", P, risk=RiskConfig(kind, **settings))


def test_each_risk_is_its_measure_of_the_particles():
    (value, cost, margin), member = particles()
    by_member = np.stack([cost[member == i].mean(0) for i in range(3)])
    expected = {
        "mean": cost.mean(0),
        "max": cost.max(0),
        "cvar": conditional_value_at_risk(cost, 0.7),
        "ucb": cost.mean(0) + 1.5 * cost.std(0),
        "members": by_member.max(0),
    }
    for kind, risk in expected.items():
        found = scored(safe(kind, level=0.7, kappa=1.5))
        assert_close(tuple(found), (value.mean(), risk, margin.max(0)), rtol=1e-4)


def test_a_plan_that_meets_the_members_risk_meets_it_for_each_member():
    # Without noise each member's path is known: after two steps at 2 i and at -2 i.
    found = scored(safe("members"), Members(al=0.0))
    # Member 2 is at 2, then 4: (1 + 3); member 0 stays at 0: past -1 by 1, twice.
    assert_close(found.cost, jnp.array([4.0, 2.0]))
    assert scored(safe("mean"), Members(al=0.0)).cost[0] < 2.0


def test_pestraj_is_a_setting_of_safe():
    own = scored(PesTraj(H, "TSInf", P))
    same = Safe(H, "TSInf", P, risk=RiskConfig("max"), separate=True)
    assert_close(scored(same), own, rtol=0.0, atol=0.0)
    value_key, cost_key = jax.random.split(KEY)
    of_value, of_cost = particles(value_key)[0], particles(cost_key)[0]
    expected = (of_value.value.mean(), of_cost.cost.max(0), of_cost.margin.max(0))
    assert_close(tuple(own), expected, rtol=1e-4)


def test_the_member_that_binds_is_the_one_of_least_slack():
    planner = safe("members")
    for threshold, binds in (((3.0, 9.0), 2), ((9.0, 1.0), 0)):
        found = planner.report(
            KEY, TRACK, Members(al=0.0), SITUATION, ACTIONS, jnp.array(threshold)
        )
        assert found["plan/binding_member"] == binds
    nothing = safe("mean").report(
        KEY, TRACK, Members(), SITUATION, ACTIONS, jnp.zeros(2)
    )
    assert nothing == {}


# Settings.


@pytest.mark.parametrize("mode", ["MEAN", "DIST", "TS1"])
def test_members_need_particles_that_keep_to_one(mode):
    for make in (
        lambda: Safe(H, mode, P, risk=RiskConfig("members")),
        lambda: SafeConfig(mode, P, risk=RiskConfig("members")),
    ):
        with pytest.raises(ValueError, match="TSInf"):
            make()


def test_members_need_a_particle_each():
    planner = Safe(H, "TSInf", 2, risk=RiskConfig("members"))
    with pytest.raises(ValueError, match="num_particles >= 3, got 2"):
        planner.problem(KEY, TRACK, Members(), SITUATION)
    with pytest.raises(ValueError, match="a model with members"):
        planner.problem(KEY, TRACK, TrueDynamics(TRACK), SITUATION)


def test_configs_say_what_the_planners_default_to():
    for planner, config in ((Safe(H), SafeConfig()), (PesTraj(H), PesTrajConfig())):
        for field in dataclasses.fields(config):
            assert getattr(planner, field.name) == getattr(config, field.name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "median"), ("level", 1.1), ("level", float("nan")), ("kappa", -1.0)],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        RiskConfig(**{field: value})
