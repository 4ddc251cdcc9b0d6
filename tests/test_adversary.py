"""The adversary that climbs the margin's gradient, beside the sampled one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex import rollout
from safex.agents.planners import Pessimistic, Situation
from safex.config import MinMaxConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.rule import constrain
from safex.envs.pendulum import Pendulum
from safex.optimizers.gaussian import take
from safex.optimizers.minmax import MinMax
from safex.types import Prediction, Score
from tests.helpers import assert_close, game_of

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
H, Y = 8, 2
# Worst where every step has its own sign: no corner, no smooth sequence comes near.
DRAWS = np.random.default_rng(3).normal(size=(2, H, Y))
WORST, OTHER = np.sign(DRAWS).astype(np.float32)


def attacked(x, y):
    """Two constraints, each with a worst adversary of its own."""
    harms = [jnp.tanh((worst * y).mean()) for worst in (WORST, OTHER)]
    margin = jnp.stack(harms) + jnp.array([0.1, -0.1]) * x.sum()
    return jnp.maximum(margin - 0.5, 0.0), margin


def value(x):
    return Score(-jnp.sum(x**2), jnp.zeros(2), jnp.full(2, -jnp.inf))


GAME = game_of(value, attacked)


def minmax(**settings):
    config = {"horizon": H, "num_samples_y": 12, "num_iter_y": 2, **settings}
    return MinMax(1, Y, MinMaxConfig(**config))


def attack(game=GAME, y_dim=Y, **settings):
    """What the adversary finds against two fixed agents."""
    player = minmax(**settings)

    @jit
    def run(key):
        agents = jnp.stack([jnp.zeros((H, 1)), jnp.full((H, 1), 0.5)])
        draws = take(player._draws(key)[0], 0)
        state, looked_at = player.init(key), player._agents(game, agents)
        return player._y_step(draws, state, looked_at, game)

    return jax.device_get(run(KEY))


@pytest.fixture(scope="module")
def sampled():
    return attack()


@pytest.fixture(scope="module")
def climbed():
    return attack(gradient_steps=4)


def test_gradient_finds_the_worst_adversary(climbed):
    state, found = climbed
    worst = found.margin.max(0)  # [agents, constraints]
    expected = np.tanh(1.0) + 0.5 * H * np.array([[0.0, 0.0], [0.1, -0.1]])
    assert_close(worst, expected.astype(np.float32), rtol=1e-4)
    # They are in the archive, for the agent to withstand.
    for y in (WORST, OTHER):
        assert any(np.array_equal(y, known) for known in state.archive)


def test_gradient_is_worse_than_sampling_at_equal_evaluations(climbed):
    # 4 steps for 2 agents and 2 constraints: 16 gradients and 32 evaluations; a
    # gradient counted as two, 64 evaluations more, of 2 agents: 32 more samples.
    _, more = attack(num_samples_y=12 + 16)
    assert climbed[1].margin[..., 0].max() > more.margin[..., 0].max() + 0.1


def test_the_pool_with_climbers_is_never_less_harmful(sampled, climbed):
    # The same key draws the same samples, so the pool only grows.
    less, more = sampled[1], climbed[1]
    assert_close(more.y[: len(less.y)], less.y)
    assert np.all(more.cost.max(0) >= less.cost.max(0))
    assert np.all(more.margin.max(0) >= less.margin.max(0))
    assert len(more.y) == len(less.y) + 4 * 2 * 2
    assert np.abs(more.y).max() <= 1.0


def test_a_plan_never_promises_less_cost_for_a_gradient():
    @functools.cache
    def judge(steps):
        # No search of its own: what differs is the verification alone.
        player = minmax(
            iterations=1,
            num_iter_x=1,
            num_samples_x=4,
            num_elites_x=2,
            init_std_x=1e-9,
            min_std=1e-9,
            gradient_steps=steps,
        )

        @jit
        def run(key):
            state = player.init(key)
            rule = constrain(FeasibleFirst(), 0.0, 2)
            return player.optimize(key, state, GAME, rule)[1]

        return run

    for key in jax.random.split(KEY, 4):
        plain, found = judge(0)(key), judge(4)(key)
        assert_close(plain.actions, found.actions, rtol=0.0, atol=1e-6)
        assert np.all(found.cost >= plain.cost - 1e-6)
        assert found.cost[0] > plain.cost[0] + 0.05


def test_a_gradient_that_is_not_finite_moves_nothing_and_wins_nothing():
    def broken(x, y):
        cost, margin = attacked(x, y)
        nan = jnp.sqrt(jnp.minimum(y.sum() ** 2, 0.0))  # 0, with a gradient of NaN
        return cost, margin + nan

    _, found = attack(game_of(value, broken), gradient_steps=2)
    assert np.isfinite(found.y).all()
    assert np.isfinite(found.margin).all()


def test_it_climbs_through_a_model_and_the_projection():
    env = Pendulum.from_config(speed_threshold=1.0)

    class Model:
        num_members = 0

        def predict(self, state, obs, action):
            mean = env.dynamics(obs, action)
            return Prediction(mean, jnp.array([0.02, 0.02, 0.1]), jnp.zeros(3))

    obs = env.observe(env.state_at(2.0, 0.3))
    widths = jnp.ones(3)
    situation = Situation(obs, None, widths, widths)
    game = Pessimistic(H, noise_alpha=0.0).problem(KEY, env, Model(), situation)
    player = MinMax(1, 3, MinMaxConfig(horizon=H, corners=False, num_samples_y=8))
    steps = MinMax(
        1,
        3,
        MinMaxConfig(horizon=H, corners=False, num_samples_y=8, gradient_steps=6),
    )
    agents = jnp.zeros((1, H, 1))

    def worst(player):
        def run(key):
            looked_at = player._agents(game, agents)
            draws = take(player._draws(key)[0], 0)
            return player._y_step(draws, player.init(key), looked_at, game)[1]

        return jit(run)(KEY).margin.max()

    # No adversary does more than the best of all corners, found by hand.
    transition = rollout.hallucinated_transition(Model(), None, env, widths, 0.0)
    corners = MinMax(1, 3, MinMaxConfig(horizon=H))._corners()

    def by_hand(y):
        push = rollout.Push(y)
        return rollout.evaluate(env, transition, obs, agents[0], push).margin

    by_corner = jit(jax.vmap(by_hand))(corners)
    sampled, climbed = worst(player), worst(steps)
    assert climbed > sampled
    assert climbed >= by_corner.max() - 1e-4


@pytest.mark.parametrize(
    ("field", "value"),
    [("gradient_steps", -1), ("gradient_step_size", 0.0)],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        MinMaxConfig(**{field: value})
