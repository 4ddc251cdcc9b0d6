"""The E-step of CVPO: weights of sampled actions, from a convex dual.

Liu et al. 2022, arXiv 2201.11927, Sec. 4.1; without costs it is MPO's (Abdolmaleki et
al. 2018, arXiv 1806.06920, Eq. 7 to 9).

For S observations with N actions each, drawn from the old policy,

    max_w mean_s E_w[Q_r]   s.t.   mean_s KL(w || uniform) <= eps,
                                   mean_s E_w[Q_c] <= d for each of C costs

has the solution `w = softmax_a(x / eta)`, `x = Q_r - lambda . Q_c`, where eta > 0 and
lambda >= 0 minimise the convex

    g = eta eps + lambda . d + eta mean_s log mean_a exp(x / eta).

Its gradient is what is left of the constraints, `eps - KL` and `d - E_w[Q_c]`; its
Hessian is `mean_s Cov_w(u) / eta` with `u = (x / eta, Q_c)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.types import Array

# In stds of Q_r; below it weights are an argmax, in float32.
_MIN_TEMPERATURE = 1e-3
_MAX_STEPS = 60
_MAX_HALVINGS = 12
# Share of eps, and of a cost's std, that a constraint may be missed by.
_TOLERANCE = 1e-5


class Dual(NamedTuple):
    """Where the dual is least, or a start to look from.

    Attributes:
      temperature: `[]` eta, in reward.
      multiplier: `[C]` lambda, in reward per unit of cost.
    """

    temperature: Array
    multiplier: Array


class EStep(NamedTuple):
    """Weights, and what they keep to.

    Attributes:
      weights: `[S, N]` of the sampled actions; each row's sum is 1.
      dual: that they come from.
      kl: `[]` mean KL of the weights from uniform ones [nat].
      cost: `[C]` mean `E_w[Q_c]`.
      infeasible: `[]` bool, no price up to the cap makes the batch keep its thresholds.
      steps: `[]` int32 Newton steps taken.
    """

    weights: Array
    dual: Dual
    kl: Array
    cost: Array
    infeasible: Array
    steps: Array


class _Problem(NamedTuple):
    """The dual of standardised values: `y = (eta, lambda)` within bounds `[1 + C]`."""

    reward: Array
    cost: Array
    slack: Array
    eps: float
    low: Array
    high: Array


def dual_value(
    dual: Dual, reward: Array, cost: Array, threshold: Array, eps: float
) -> Array:
    """G as it is written above, for `[S, N]` and `[C, S, N]`."""
    eta = dual.temperature
    x = reward - jnp.tensordot(dual.multiplier, cost, axes=1)
    log_mean = jax.nn.logsumexp(x / eta, axis=-1) - jnp.log(x.shape[-1])
    return eta * eps + dual.multiplier @ threshold + eta * log_mean.mean()


def first_guess(num_costs: int) -> Dual:
    """A temperature of 1 and no price."""
    return Dual(jnp.ones(()), jnp.zeros(num_costs))


def solve_estep(
    reward: Array,
    cost: Array,
    threshold: Array,
    eps: float,
    max_multiplier: float,
    max_weight: Array,
    start: Dual,
) -> EStep:
    """Weights of the sampled actions by the least of the dual.

    A batch is infeasible if a multiplier ends at its cap with its cost still above the
    threshold. No price is enough there, and the highest would leave the reward out: the
    weights are those of prices that weigh no more than `max_weight`.

    Args:
      reward: `[S, N]` Q_r.
      cost: `[C, S, N]` Q_c; C may be 0.
      threshold: `[C]` d.
      eps: of the KL, in (0, log N).
      max_multiplier: cap of lambda.
      max_weight: `[C]` cap of `lambda std(Q_c) / std(Q_r)` in an infeasible batch, each
        std the root mean square over the batch of what an observation's own mean
        leaves; may be infinite.
      start: from the last batch, or `first_guess`.
    """
    centred, reward_scale = _standardised(reward)
    costs, cost_scale = jax.vmap(_standardised)(cost)
    unit = reward_scale / cost_scale
    num_costs = threshold.shape[0]
    highest = max_multiplier / unit
    # The KL is std(x)^2 / (2 eta^2) where it is small, and std(x) <= 1 + sum lambda: a
    # temperature above that asks for more than the cap of the prices allows.
    hottest = 4.0 * (1.0 + highest.sum(keepdims=True)) / jnp.sqrt(2.0 * eps)
    problem = _Problem(
        reward=centred,
        cost=costs,
        slack=(threshold - cost.mean((1, 2))) / cost_scale,
        eps=eps,
        low=jnp.zeros(1 + num_costs).at[0].set(_MIN_TEMPERATURE),
        high=jnp.concatenate([hottest, highest]),
    )
    begin = jnp.concatenate(
        [start.temperature[None] / reward_scale, start.multiplier / unit]
    )
    y, steps = _minimise(problem, begin)
    weights, kl, gradient = _at(problem, y)
    capped = (y[1:] >= problem.high[1:]) & (gradient[1:] < -1e-3)
    infeasible = capped.any()

    def weighed() -> tuple[Array, Array, Array]:
        high = problem.high.at[1:].set(jnp.minimum(highest, max_weight))
        bounded = problem._replace(high=high)
        y, _ = _minimise(bounded, begin)
        weights, kl, _ = _at(bounded, y)
        return y, weights, kl

    if num_costs:
        y, weights, kl = jax.lax.cond(infeasible, weighed, lambda: (y, weights, kl))
    return EStep(
        weights=weights,
        dual=Dual(y[0] * reward_scale, y[1:] * unit),
        kl=kl,
        cost=(weights * cost).sum(-1).mean(-1),
        infeasible=infeasible,
        steps=steps,
    )


def _standardised(x: Array) -> tuple[Array, Array]:
    """`[S, N]` less each row's mean, in units of what is left, and that unit."""
    centred = x - x.mean(-1, keepdims=True)
    # Equal actions differ by rounding alone; that must not become their order.
    floor = 1e-6 * (1.0 + jnp.abs(x).max())
    scale = jnp.maximum(jnp.sqrt((centred**2).mean()), floor)
    return centred / scale, scale


def _log_mean(problem: _Problem, y: Array) -> tuple[Array, Array, Array]:
    """`x / eta`, its softmax and its `log mean exp`, over the actions."""
    x = problem.reward - jnp.tensordot(y[1:], problem.cost, axes=1)
    z = x / y[0]
    top = z.max(-1, keepdims=True)
    exp = jnp.exp(z - top)
    mean = exp.mean(-1, keepdims=True)
    return z, exp / (mean * z.shape[-1]), (top + jnp.log(mean))[..., 0]


def _value(problem: _Problem, y: Array) -> Array:
    """G of the standardised values."""
    _, _, log_mean = _log_mean(problem, y)
    return y[0] * (problem.eps + log_mean.mean()) + y[1:] @ problem.slack


def _rounding(problem: _Problem, y: Array) -> Array:
    """How far off float32 may be in g."""
    return 1e-6 * (y[0] + jnp.abs(y[1:]) @ (jnp.abs(problem.slack) + 1.0))


def _at(problem: _Problem, y: Array) -> tuple[Array, Array, Array]:
    """Weights, KL and gradient."""
    z, weights, log_mean = _log_mean(problem, y)
    kl = ((weights * z).sum(-1) - log_mean).mean()
    cost = (weights * problem.cost).sum(-1).mean(-1)
    gradient = jnp.concatenate([(problem.eps - kl)[None], problem.slack - cost])
    return weights, kl, gradient


def _at_bound(problem: _Problem, y: Array, gradient: Array) -> Array:
    """Which variables lie at a bound that the gradient holds them to."""
    low = (y <= problem.low) & (gradient > 0)
    return low | ((y >= problem.high) & (gradient < 0))


def _covariance(problem: _Problem, y: Array, weights: Array, free: Array) -> Array:
    """Mean over observations of the weighted covariance of what the prices move."""
    held = jnp.tensordot(y[1:] * (1.0 - free[1:]), problem.cost, axes=1)
    u = jnp.concatenate([(problem.reward - held)[None], problem.cost])
    u = u - (weights * u).sum(-1, keepdims=True)
    flat = u.reshape(u.shape[0], -1)
    return (flat * weights.reshape(-1)) @ flat.T / weights.shape[0]


def _direction(problem: _Problem, y: Array, weights: Array, gradient: Array) -> Array:
    """Newton's step of the free variables, no further than the model can be trusted.

    Where the price is high, `x / eta` and Q_c are nearly the same, and the Hessian is
    nearly singular. It is `T M T' / eta` with `T = ((1, -lambda), (0, eta I)) / eta`
    and M the covariance of `(Q_r, Q_c)`, which is not; so M is inverted, T by hand.
    """
    free = jnp.where(_at_bound(problem, y, gradient), 0.0, 1.0)
    moments = _covariance(problem, y, weights, free)
    prices = y[1:] * free[1:]
    g = gradient * free
    turned = g.at[0].set(free[0] * (y[0] * g[0] + prices @ g[1:]))
    # Constraints that say the same have no inverse.
    ridge = jnp.where(free > 0, 1e-6 * jnp.diag(moments) + 1e-12, 1.0)
    matrix = moments * jnp.outer(free, free) + jnp.diag(ridge)
    q = -y[0] * jnp.linalg.solve(matrix, turned)
    newton = q.at[0].multiply(y[0]).at[1:].add(prices * q[0])
    diagonal = jnp.diag(moments).at[0].divide(y[0] ** 2)
    steepest = -g * y[0] / (diagonal + 1e-12)

    def trusted(step: Array) -> Array:
        reach = jnp.maximum(4.0 * jnp.abs(y), 1.0)
        reach = reach.at[0].set(jnp.where(step[0] < 0, 0.75, 4.0) * y[0])
        return step / jnp.maximum((jnp.abs(step) / reach).max(), 1.0)

    newton, steepest = trusted(newton), trusted(steepest)
    # Bounds may turn Newton's step uphill; steepest descent they cannot.
    moved = jnp.clip(y + newton, problem.low, problem.high) - y
    return jnp.where(gradient @ moved < 0, newton, steepest)


def _minimise(problem: _Problem, begin: Array) -> tuple[Array, Array]:
    """Projected Newton's method with a backtracking line search (Bertsekas 1982)."""
    tolerance = jnp.full_like(begin, _TOLERANCE).at[0].set(_TOLERANCE * problem.eps)

    def search(y: Array, step: Array) -> Array:
        old = _value(problem, y)
        # Near the optimum the gain drowns in rounding; Newton's step is right there.
        enough = old + _rounding(problem, y)

        def worse(carry: tuple[Array, Array]) -> Array:
            new, halvings = carry
            return ~(_value(problem, new) <= enough) & (halvings < _MAX_HALVINGS)

        def halve(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            _, halvings = carry
            share = 0.5 ** (halvings + 1.0)
            new = jnp.clip(y + share * step, problem.low, problem.high)
            return new, halvings + 1

        whole = jnp.clip(y + step, problem.low, problem.high)
        new, _ = jax.lax.while_loop(worse, halve, (whole, jnp.zeros((), jnp.int32)))
        return new

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, steps, done = carry
        return ~done & (steps < _MAX_STEPS)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        y, steps, _ = carry
        weights, _, gradient = _at(problem, y)
        held = _at_bound(problem, y, gradient)
        done = (held | (jnp.abs(gradient) <= tolerance)).all()
        new = search(y, _direction(problem, y, weights, gradient))
        still = (jnp.abs(new - y) <= 1e-7 * jnp.abs(y)).all()
        return jnp.where(done, y, new), steps + 1, done | still

    begin = jnp.clip(begin, problem.low, problem.high)
    start = (begin, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    y, steps, _ = jax.lax.while_loop(unfinished, step, start)
    return y, steps
