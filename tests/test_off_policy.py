"""Critics, actors, multipliers and the learner that joins them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex import config as settings
from safex.agents.off_policy.build import build_off_policy
from safex.agents.off_policy.critics import Critics, CriticsState, Values
from safex.agents.off_policy.networks import DeterministicActor, GaussianActor
from safex.agents.off_policy.prices import EpisodicPrice, priced_loss
from safex.agents.off_policy.td3 import TargetNoise
from safex.agents.off_policy.threshold import Threshold
from safex.config import (
    OFF_POLICY_KINDS,
    OFF_POLICY_PRESETS,
    OffPolicyConfig,
    PIDConfig,
    TD3LagConfig,
)
from safex.constraints.pid import PID
from safex.errors import ConfigError
from safex.replay import Minibatch, append, make_replay
from safex.types import Transition
from tests.helpers import assert_close
from tests.probe import BEST_ACTION, BUDGET, Known, Probe, agent_of, improve, learn

SMALL = {"features": (8,), "batch_size": 16}
GAMMA, COST_GAMMA = 0.9, 0.8


class Task(Probe):
    """The probe with two constraints."""

    num_constraints = 2


def config_of(kind, **changes):
    return getattr(settings, f"{kind}Config")(**{**SMALL, **changes})


def minibatch(key, size=6, num_costs=2):
    keys = jax.random.split(key, 5)
    alive = jnp.arange(size) % 3 != 0
    return Minibatch(
        obs=jax.random.normal(keys[0], (size, 2)),
        action=jax.random.uniform(keys[1], (size, 2), minval=-1.0),
        reward=jax.random.normal(keys[2], (size,)),
        cost=jax.random.uniform(keys[3], (size, num_costs)),
        next_obs=jax.random.normal(keys[4], (size, 2)),
        discount=jnp.where(alive, GAMMA, 0.0),
        cost_discount=jnp.where(alive, COST_GAMMA, 0.0),
    )


def stored(key, num_costs=2, steps=30, envs=2):
    """A replay of random steps."""
    keys = jax.random.split(key, 5)
    rows = (steps, envs)
    block = Transition(
        jax.random.normal(keys[0], (*rows, 2)),
        jax.random.uniform(keys[1], (*rows, 2), minval=-1.0),
        jax.random.normal(keys[2], rows),
        jax.random.uniform(keys[3], (*rows, num_costs)),
        jax.random.normal(keys[4], (*rows, 2)),
        jnp.zeros(rows, bool),
        jnp.broadcast_to((jnp.arange(steps) % 20 == 19)[:, None], rows),
    )
    return append(make_replay(40, envs, 2, 2, num_costs), block)


@pytest.fixture(scope="module")
def critics():
    return Critics(OffPolicyConfig(**SMALL), 2, 2, num_costs=2)


def test_the_least_reward_and_the_largest_cost_count(critics):
    state = critics.init(jax.random.key(0))
    batch = minibatch(jax.random.key(1))
    members = critics.members(state.params, batch.obs, batch.action)
    assert members.shape == (2, 3, 6)
    values = critics.values(state.params, batch.obs, batch.action)
    assert_close(values.reward, np.min(members[:, 0], 0))
    assert_close(values.cost, np.max(members[:, 1:], 0).T)
    # Twins that agree would not tell min from max.
    assert not np.allclose(members[0], members[1])


def test_targets_are_bellmans_and_the_cost_knows_no_entropy(critics):
    state = critics.init(jax.random.key(0))
    batch = minibatch(jax.random.key(1))
    next_action = jax.random.uniform(jax.random.key(2), (6, 2), minval=-1.0)
    bonus = jax.random.normal(jax.random.key(3), (6,))
    y = critics.targets(state.target, batch, next_action, bonus)
    members = np.asarray(critics.members(state.target, batch.next_obs, next_action))
    for i in range(6):
        ends = i % 3 == 0
        gamma, cost_gamma = (0.0, 0.0) if ends else (GAMMA, COST_GAMMA)
        value = min(members[0, 0, i], members[1, 0, i]) + bonus[i]
        expected = batch.reward[i] + gamma * value
        np.testing.assert_allclose(y[:, 0, i], [expected] * 2, rtol=1e-5)
        # Each critic of a cost goes on from itself.
        expected = batch.cost[i] + cost_gamma * members[:, 1:, i]
        np.testing.assert_allclose(y[:, 1:, i], expected, rtol=1e-5)
    other = critics.targets(state.target, batch, next_action, 10 + bonus)
    assert_close(other[:, 1:], y[:, 1:])


def test_an_update_is_one_step_of_adam_and_the_target_follows(critics):
    state = critics.init(jax.random.key(0))
    batch = minibatch(jax.random.key(1))
    update = jax.jit(critics.update)
    new, metrics = update(state, batch, batch.action, jnp.zeros(6))
    # Adam's first step is the learning rate, in the direction of the gradient.
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), new.params, state.params)
    assert max(map(float, jax.tree.leaves(moved))) == pytest.approx(1e-3, rel=1e-3)
    tau = critics.config.tau
    mixed = jax.tree.map(lambda a, b: tau * a + (1 - tau) * b, new.params, state.target)
    assert_close(new.target, mixed)
    y = critics.targets(state.target, batch, batch.action, jnp.zeros(6))
    error = critics.members(state.params, batch.obs, batch.action) - y
    assert_close(metrics["critic/loss"], (error[:, 0] ** 2).mean())
    assert_close(metrics["cost_critic/loss"], (error[:, 1:] ** 2).mean((0, 2)))
    assert_close(metrics["critic/value"], y[:, 0].mean())
    assert_close(metrics["cost_critic/value"], y[:, 1:].mean((0, 2)))


def test_the_actors_loss_is_divided_by_one_plus_the_prices():
    values = Values(jnp.asarray([1.0, 3.0]), jnp.asarray([[1.0, 0.5], [2.0, 1.5]]))
    # Mean cost (1.5, 1.0), priced 2 and 4: 3 + 4; mean reward 2; divided by 7.
    loss = priced_loss(jnp.zeros(2), values, jnp.asarray([2.0, 4.0]))
    assert float(loss) == pytest.approx((7.0 - 2.0) / 7.0)
    free = Values(values.reward, jnp.zeros((2, 0)))
    loss = priced_loss(jnp.asarray([0.5, 0.5]), free, jnp.zeros(0))
    assert float(loss) == pytest.approx(-1.5)


def test_multipliers_move_with_fresh_episodes_alone():
    pid = PIDConfig(k_p=0.1, k_i=0.01, k_d=0.0)
    price = EpisodicPrice(PID(pid), (5.0, 0.0))
    state = price.init()
    nothing = jnp.full(2, jnp.nan)
    assert_close(price.update(state, nothing, jnp.asarray(False)), state)
    state = price.update(state, jnp.asarray([15.0, 1.0]), jnp.asarray(True))
    # Excess 10 and 1: 0.1 and 0.01 times it, both; a budget of 0 has a price as well.
    assert_close(price.multiplier(state), jnp.asarray([1.1, 0.11]))
    same = price.update(state, nothing, jnp.asarray(False))
    assert_close(same, state)


@pytest.mark.parametrize("delay", [5.0, 15.0])
@pytest.mark.parametrize(
    ("budget", "most", "right"),
    [(2.0, 3.5, 0.5), (2.0, 3.5, 2.0), (25.0, 60.0, 1.0), (10.0, 80.0, 5.0)],
)
def test_a_price_settles_at_budgets_of_any_size(delay, budget, most, right):
    """Closed around an actor that follows its price late, and noisy episodes.

    An episode costs `most` without a price, and the budget at the price `right`.
    """

    def over(pid):
        price = EpisodicPrice(PID(pid), (budget,))

        def turn(carry, key):
            state, felt = carry
            felt = felt + (price.multiplier(state) - felt) / delay
            cost = most * (budget / most) ** (felt / right)
            noisy = cost * (1 + 0.3 * jax.random.normal(key, (1,)))
            state = price.update(state, jnp.maximum(noisy, 0.0), jnp.asarray(True))
            return (state, felt), cost

        keys = jax.random.split(jax.random.key(0), 100)
        _, costs = jax.lax.scan(turn, (price.init(), jnp.zeros(1)), keys)
        return float(costs[-10:].mean()) / budget

    relative = PIDConfig(k_p=0.5, k_i=0.2, k_d=0.0, relative=True)
    assert over(relative) == pytest.approx(1.0, abs=0.25)
    # FSRL's get there in as long only where a unit of cost is little of a budget.
    fsrl = over(OFF_POLICY_PRESETS["sac_lag_fsrl"][1].pid)
    assert (fsrl > 1.4) == (budget < 25.0)


def test_a_smoothed_price_does_not_swing_with_an_actor_that_follows_at_once():
    """By turns a round of 60 without a price, and one that the slope priced off."""

    def swing(pid):
        price = EpisodicPrice(PID(pid), (10.0,))

        def turn(state, _):
            cost = 60.0 * jnp.exp(-price.multiplier(state))
            return price.update(state, cost, jnp.asarray(True)), cost

        _, costs = jax.lax.scan(turn, price.init(), None, 100)
        return float(costs[-10:].max() - costs[-10:].min())

    assert swing(OFF_POLICY_PRESETS["sac_lag_fsrl"][1].pid) > 40.0
    assert swing(TD3LagConfig().pid) < 2.0


def test_an_excess_in_budgets_is_at_most_one_and_a_budget_of_0_counts_costs():
    pid = PID(PIDConfig(k_p=0.5, k_i=0.1, k_d=0.0, relative=True))
    state, budget = pid.init(3), jnp.asarray([10.0, 10.0, 0.0])
    state = pid.update(state, jnp.asarray([15.0, 90.0, 0.25]), budget)
    assert_close(state.multiplier, 0.6 * jnp.asarray([0.5, 1.0, 0.25]))
    state = pid.update(state, jnp.asarray([5.0, 0.0, 0.0]), budget)
    assert_close(state.integral, jnp.asarray([0.0, 0.0, 0.25]))


def test_every_action_lies_in_the_box_and_std_starts_where_it_is_told():
    obs = 100.0 * jax.random.normal(jax.random.key(0), (50, 3))
    actor = GaussianActor(3, 2, (8,), "relu", init_std=0.7, min_std=0.01)
    params = actor.init(jax.random.key(1))
    sample = actor.distribution(params, obs).sample(seed=jax.random.key(2))
    for action in (sample, actor.mode(params, obs)):
        assert np.all(np.abs(action) <= 1.0)
    mean, std = actor.moments(params, jnp.zeros(3))
    assert_close(mean, jnp.zeros(2))
    assert_close(std, jnp.full(2, 0.7))
    mean, std = actor.moments(params, 1e4 * obs)
    assert np.all(np.abs(mean) <= actor.max_mean)
    assert np.all((std >= 0.01) & (std <= actor.max_std))
    fixed = DeterministicActor(3, 2, (8,), "relu")
    action = fixed.action(fixed.init(jax.random.key(1)), obs)
    assert np.all(np.abs(action) <= 1.0)
    noisy = TargetNoise(0.2, 0.5)(jax.random.key(3), action)
    assert np.all(np.abs(noisy) <= 1.0)
    assert np.all(np.abs(noisy - action) <= 0.5)
    assert_close(TargetNoise()(jax.random.key(3), action), action)


def test_the_threshold_is_the_budget_on_the_critics_scale():
    # The published table: 20 in 300 steps at 0.99 is 6.340, 10 in 400 is 2.455.
    for steps, budget, expected in (
        (300, (20.0,), (6.340, 6.340)),
        (400, (10.0, 0.0), (2.455, 0.0)),
    ):
        for how in ("measured", "even"):
            config = config_of("CVPO", cost_budget=budget, threshold=how)
            agent = build_off_policy("CVPO", config, Task(max_steps=steps))
            threshold = agent.policy.threshold
            measured = threshold.init()
            assert threshold(measured) == pytest.approx(expected, abs=1e-3)
            # A mean Q_c of 1.5 in episodes of cost 7 for each.
            seen = jnp.asarray([1.5, 1.5]), jnp.asarray([7.0, 7.0])
            measured = threshold.update(measured, *seen, 500, 500)
            found = threshold(measured)
            if how == "even":
                assert found == pytest.approx(expected, abs=1e-3)
                continue
            allowed = np.broadcast_to(np.asarray(budget), 2)
            even = np.asarray(expected)[0] / allowed[0]
            share = (1.5 + 0.1 * allowed * even) / (7 + 0.1 * allowed)
            np.testing.assert_allclose(found, allowed * share, rtol=1e-3)


def test_the_means_of_a_threshold_forget_as_a_window_does():
    threshold = Threshold((2.0, 0.0), 0.9, 20, 0.1)
    measured = threshold.init()
    new = threshold.update(measured, jnp.asarray([1.0, 2.0]), jnp.ones(2), 25, 100)
    np.testing.assert_allclose(
        new.value, 0.75 * np.asarray(measured.value) + [0.25, 0.5]
    )
    np.testing.assert_allclose(new.cost, [1.75, 0.25])
    whole = threshold.update(measured, jnp.asarray([1.0, 2.0]), jnp.ones(2), 300, 100)
    assert_close(whole.value, jnp.asarray([1.0, 2.0]))
    # A budget of 0 has a threshold of 0 whatever is measured, nothing too.
    nothing = whole._replace(value=jnp.zeros(2), cost=jnp.zeros(2))
    for known in (whole, nothing):
        assert float(threshold(known)[1]) == 0.0
        assert float(threshold(known)[0]) > 0.0


def test_what_is_measured_is_of_the_steps_and_episodes_of_a_call():
    """Steps cost 0 before, 1 since, and critics that say so of the observation."""

    class Telling:
        def values(self, params, obs, action):
            return Values(obs[..., 0], obs[..., :1] * params + 0 * action[..., :1])

    agent = build_off_policy("CVPO", config_of("CVPO", estep_newest=40), Probe())
    policy = dataclasses.replace(agent.policy, critics=Telling())
    state = policy.init(jax.random.key(0))
    replay = stored(jax.random.key(1), num_costs=1, steps=10)
    critics = CriticsState(jnp.nan, 0.5, ())
    hear = jax.jit(policy.hear)

    def said(state, replay, cost, fresh):
        key = jax.random.key(2)
        return hear(key, state, state, critics, replay, jnp.asarray([cost]), fresh)

    first = state
    state = said(state, replay, jnp.nan, jnp.asarray(False))
    assert_close(state.measured, first.measured)
    assert_close(state.weight, first.weight)
    state = said(state, replay, 3.0, jnp.asarray(True))
    before = state.measured
    # A budget of 25, of which 22 were not spent.
    assert_close(state.weight, first.weight - 0.03 * 22 / 25)
    assert int(before.written) == 10
    block = jax.tree.map(lambda x: x[:5], replay.transitions)
    block = block._replace(obs=jnp.full_like(block.obs, 4.0))
    new = said(state, append(replay, block), 7.0, jnp.asarray(True)).measured
    # Ten steps of a window of 40, each of Q_c 2 by the target critics.
    np.testing.assert_allclose(new.value, 0.75 * before.value + 0.25 * 2.0, rtol=1e-5)
    np.testing.assert_allclose(new.cost, 0.75 * before.cost + 0.25 * 7.0, rtol=1e-5)
    assert int(new.written) == 15


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("SACLag", {}),
        ("TD3Lag", {}),
        ("CVPO", {}),
        ("CVPO", {"init_cost_weight": None}),
    ],
)
def test_updates_are_one_compiled_call(kind, changes):
    """Two constraints, one of budget 0; the second call compiles nothing."""
    config = config_of(kind, cost_budget=(1.0, 0.0), **changes)
    agent = build_off_policy(kind, config, Task())
    state = jax.jit(agent.init)(jax.random.key(0))
    replay = stored(jax.random.key(1))
    before = type(agent).update._cache_size()
    cost = jnp.asarray([2.0, 3.0])
    for call in range(3):
        # NaN where nothing is fresh must not spread.
        fresh = jnp.asarray(call != 1)
        new, metrics = agent.update(
            jax.random.key(2 + call),
            state,
            replay,
            jnp.where(fresh, cost, jnp.nan),
            fresh,
            num_updates=3,
        )
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for old, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
            assert old.shape == leaf.shape
            assert old.dtype == leaf.dtype
            assert np.all(np.isfinite(leaf))
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(metrics))
        state = new
        replay = append(replay, jax.tree.map(lambda x: x[:5], replay.transitions))
    assert type(agent).update._cache_size() == before + 1
    assert int(state.updates) == 9
    for explore in (True, False):
        action, _ = agent.act(jax.random.key(9), state, jnp.ones(2), explore=explore)
        assert action.shape == (2,)
        assert np.all(np.abs(action) <= 1.0)
    assert ("multiplier" in metrics) == kind.endswith("Lag")
    if kind.endswith("Lag"):
        assert np.all(metrics["multiplier"] > 0)


@pytest.mark.parametrize("kind", OFF_POLICY_KINDS)
def test_every_kind_keeps_the_protocol(kind):
    """Traced, not compiled."""
    agent = build_off_policy(kind, config_of(kind), Task())
    key = jax.random.key(0)
    state = jax.eval_shape(agent.init, key)
    replay = stored(key)
    new, _ = jax.eval_shape(
        lambda s: agent.update(
            key, s, replay, jnp.ones(2), jnp.asarray(True), num_updates=2
        ),
        state,
    )
    assert jax.tree.structure(new) == jax.tree.structure(state)
    shapes = zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in shapes)
    action, _ = jax.eval_shape(
        lambda s: agent.act(key, s, jnp.ones(2), explore=True), state
    )
    assert action.shape == (2,)


def test_the_delayed_actor_of_td3_moves_every_other_update():
    agent = build_off_policy("TD3", config_of("TD3"), Task())
    policy, critics = agent.policy, agent.critics.init(jax.random.key(1))
    state = policy.init(jax.random.key(0))
    obs = minibatch(jax.random.key(2)).obs
    improve = jax.jit(policy.improve)
    moved = []
    for count in range(4):
        new, _ = improve(jax.random.key(3), state, critics, obs, jnp.zeros(0), count)
        pair = (new.params, state.params)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), *pair)
        moved.append(not all(jax.tree.leaves(same)))
        state = new
    assert moved == [False, True, False, True]


def test_wrong_settings_are_refused():
    config = config_of("SAC")
    with pytest.raises(ConfigError, match=r"agent\.kind must be one of"):
        build_off_policy("PPO", config, Task())
    with pytest.raises(ConfigError, match="takes a SACLagConfig, got a SACConfig"):
        build_off_policy("SACLag", config, Task())
    three = config_of("SAC", cost_budget=(1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match="cost_budget needs 1 or 2 entries, got 3"):
        build_off_policy("SAC", three, Task())


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("SAC", "cost_budget", (-1.0,), "cost_budget must be >= 0"),
        ("SAC", "cost_budget", (float("nan"),), "cost_budget must be >= 0"),
        ("SAC", "discount", 1.0, r"discount must lie in \[0, 1\)"),
        ("SAC", "n_step", 0, "n_step must be >= 1"),
        ("SAC", "features", (), "features must be positive widths"),
        ("SAC", "activation", "cube", "activation must be one of"),
        ("SAC", "tau", 0.0, r"tau must lie in \(0, 1\]"),
        ("SAC", "target_entropy", 1.0, "target_entropy must be < log 2"),
        ("TD3", "actor_delay", 0, "actor_delay must be >= 1"),
        ("DDPG", "exploration_std", -0.1, "exploration_std must be >= 0"),
        ("CVPO", "threshold", "late", "threshold must be measured or even"),
        ("CVPO", "num_samples", 1, "num_samples must be >= 2"),
        ("CVPO", "init_cost_weight", 0.0, r"init_cost_weight must lie in \[0.05, 20\]"),
        ("CVPO", "init_cost_weight", math.nan, "init_cost_weight must lie in"),
        ("CVPO", "init_cost_weight", 1e3, "init_cost_weight must lie in"),
        ("CVPO", "cost_weight_rate", -0.1, "cost_weight_rate must be >= 0 and finite"),
        ("CVPO", "cost_weight_rate", math.inf, "cost_weight_rate must be >= 0 and"),
        ("CVPO", "estep_kl", 3.0, "estep_kl must be < log num_samples = 2.77"),
        ("CVPO", "min_std", 2.0, "min_std must not exceed init_std"),
        ("CVPO", "old_policy_tau", 2.0, r"old_policy_tau must lie in \(0, 1\]"),
    ],
)
def test_impossible_fields_are_refused(kind, field, value, message):
    with pytest.raises(ValueError, match=message):
        config_of(kind, **{field: value})


@pytest.mark.parametrize("kind", ["TD3Lag", "SACLag"])
def test_an_actor_goes_where_its_price_balances_its_reward(kind):
    """`a - lambda ((1 + a) / 2)^2` is greatest at `a = 2 / lambda - 1`."""
    agent = agent_of(kind, features=(8,), actor_lr_rate=1e-2)
    policy = dataclasses.replace(agent.policy, critics=Known())
    run = jax.jit(lambda price: improve(policy, 0.0, steps=400, multiplier=[price])[0])
    free, paid = run(0.0), run(2.0 / (1.0 + BEST_ACTION))
    assert float(free[0]) > 0.9
    assert abs(float(paid[0]) - BEST_ACTION) < 0.1
    assert abs(float(paid[1])) < 0.1


@pytest.mark.slow
def test_a_priced_actor_meets_a_budget_that_a_free_one_breaks():
    free = learn(agent_of("TD3"), rounds=20, num_updates=30)
    assert free.cost > 2 * BUDGET
    paid = learn(agent_of("TD3Lag"), rounds=100, num_updates=30)
    assert paid.cost < 1.05 * BUDGET
    assert abs(float(paid.action[0]) - BEST_ACTION) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("kind", OFF_POLICY_KINDS)
def test_every_agent_solves_the_probe(kind):
    """Of the unconstrained optimum's cost of 20, or of the budget, within 5 %."""
    outcome = learn(agent_of(kind), rounds=250, num_updates=30)
    if kind in ("SAC", "TD3", "DDPG"):
        assert outcome.cost > 0.95 * 20
        return
    assert outcome.train_cost < 1.05 * BUDGET
    assert outcome.cost < 1.05 * BUDGET
    assert abs(float(outcome.action[0]) - BEST_ACTION) < 0.1
    assert abs(float(outcome.action[1])) < 0.1
