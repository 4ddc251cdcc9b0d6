"""A sparse Gaussian process in normalised units: a smooth function, and where it ends.

Subset of regressors with the exact prior variance: the deterministic training
conditional (Quinonero-Candela and Rasmussen 2005, Sec. 5), whose std goes back to the
prior's away from the data. Inducing inputs are training inputs far from each other. All
outputs share one squared-exponential kernel with a length scale for each input; it and
the noise are found by marginal likelihood on those inputs, the amplitude of each output
in closed form.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.types import Array

# Directions of the kernel matrix below this share of the largest are rounding in
# float32; they are left out, and their variance stays with the prior.
_RANK_TOLERANCE = 1e-5
# Smallest noise variance, as a share of the signal's: below it float32 breaks down.
_MIN_NOISE_SHARE = 1e-4
# Added to each amplitude in quadrature. An output that is known to rounding would else
# ask for ever less of the noise that it shares with the others.
_LEAST_AMPLITUDE = 0.1
# The prior of a log length scale, in stds of the input: lengths from 1 to 8 are likely.
_LOG_LENGTH_MEAN, _LOG_LENGTH_STD = 1.0, 1.0
# Training inputs on which the kernel is fitted, and steps of Adam for it.
_NUM_EVIDENCE, _NUM_STEPS = 128, 100


class SparseGPState(NamedTuple):
    """A fitted process.

    Attributes:
      length: `[I]` length scale of each input.
      inducing: `[M, I]` inducing inputs, divided by their length scales.
      weights: `[M, D]` of the mean.
      whiten: `[M, M]`; the share of the prior variance that the data explain at an
        input with kernel vector k is `|k whiten|^2`.
      amplitude: `[D]` prior std.
    """

    length: Array
    inducing: Array
    weights: Array
    whiten: Array
    amplitude: Array


def unfitted(num_inputs: int, num_outputs: int, num_inducing: int) -> SparseGPState:
    """A process that has seen nothing and claims nothing: mean 0, amplitude 0."""
    return SparseGPState(
        length=jnp.ones(num_inputs),
        inducing=jnp.zeros((num_inducing, num_inputs)),
        weights=jnp.zeros((num_inducing, num_outputs)),
        whiten=jnp.zeros((num_inducing, num_inducing)),
        amplitude=jnp.zeros(num_outputs),
    )


def predict(state: SparseGPState, x: Array) -> tuple[Array, Array]:
    """Mean and unknown share of the prior variance, `[I] -> [D], []`.

    The std of output d is `amplitude_d sqrt(share)`.
    """
    k = _kernel(x[None] / state.length, state.inducing)[0]
    explained = jnp.sum((k @ state.whiten) ** 2)
    return k @ state.weights, jnp.clip(1.0 - explained, 0.0, 1.0)


def fit(num_inducing: int, x: Array, y: Array, mask: Array) -> SparseGPState:
    """Fits kernel and weights.

    Args:
      num_inducing: M.
      x: `[capacity, I]` normalised inputs.
      y: `[capacity, D]` normalised targets.
      mask: `[capacity]` bool, rows that count; at least one.
    """
    chosen, counts = spread_rows(x, mask, max(num_inducing, _NUM_EVIDENCE))
    rows, counts = chosen[:_NUM_EVIDENCE], counts[:_NUM_EVIDENCE]
    evidence = x[rows], jnp.where(counts[:, None], y[rows], 0.0), counts
    length, noise = _fit_kernel(*evidence)
    amplitude = _amplitude(length, noise, *evidence)
    inducing = x[chosen[:num_inducing]] / length
    return condition(length, noise, amplitude, inducing, x, y, mask)


def condition(
    length: Array,
    noise: Array,
    amplitude: Array,
    inducing: Array,
    x: Array,
    y: Array,
    mask: Array,
) -> SparseGPState:
    """The process of a given kernel after seeing data.

    Args:
      length: `[I]` length scales.
      noise: `[]` noise variance as a share of the prior variance.
      amplitude: `[D]` prior std.
      inducing: `[M, I]` inducing inputs, divided by their length scales.
      x: `[capacity, I]`.
      y: `[capacity, D]`.
      mask: `[capacity]` bool, rows that count.
    """
    # Features whose inner products are the kernel, projected onto the inducing inputs.
    values, vectors = jnp.linalg.eigh(_kernel(inducing, inducing))
    kept = values > _RANK_TOLERANCE * values[-1]
    root = jnp.where(kept, 1.0 / jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0)
    features = _kernel(x / length, inducing) @ (vectors * root)
    features = jnp.where(mask[:, None], features, 0.0)
    # Bayesian linear regression by QR: the normal equations square the condition.
    size = inducing.shape[0]
    stacked = jnp.concatenate([features / jnp.sqrt(noise), jnp.eye(size)])
    q, r = jnp.linalg.qr(stacked)
    targets = jnp.where(mask[:, None], y, 0.0) / jnp.sqrt(noise)
    weights = jax.scipy.linalg.solve_triangular(r, q[: x.shape[0]].T @ targets)
    # I - (r^T r)^-1 = V (1 - 1 / s^2) V^T is what the data take from the prior.
    _, s, vt = jnp.linalg.svd(r)
    taken = jnp.sqrt(jnp.maximum(1.0 - 1.0 / s**2, 0.0))
    return SparseGPState(
        length=length,
        inducing=inducing,
        weights=(vectors * root) @ weights,
        whiten=(vectors * root) @ (taken[:, None] * vt).T,
        amplitude=amplitude,
    )


def spread_rows(x: Array, mask: Array, count: int) -> tuple[Array, Array]:
    """Rows far from each other, each the farthest from all before it.

    Gonzalez 1985; when the rows run out the first is repeated.

    Args:
      x: `[capacity, I]`.
      mask: `[capacity]` bool, rows that may be chosen.
      count: how many.

    Returns:
      `[count]` rows, and `[count]` bool whether each is new and not a repetition.
    """
    first = jnp.argmax(mask)

    def choose(carry: tuple, _: None) -> tuple[tuple, tuple[Array, Array]]:
        row, new, distance = carry
        to_row = jnp.sum((x - x[row]) ** 2, axis=1)
        distance = jnp.minimum(distance, jnp.where(mask, to_row, 0.0))
        left = distance.max() > 0
        farthest = jnp.where(left, jnp.argmax(distance), first)
        return (farthest, left, distance), (row, new)

    start = (first, mask.any(), jnp.full(x.shape[0], jnp.inf))
    return jax.lax.scan(choose, start, None, length=count)[1]


def _kernel(a: Array, b: Array) -> Array:
    """`exp(-|a - b|^2 / 2)`, `[N, I], [M, I] -> [N, M]`, as one product."""
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)
    return jnp.exp(jnp.minimum(a @ b.T - 0.5 * squares, 0.0))


def _covariance(length: Array, noise: Array, x: Array, counts: Array) -> Array:
    """In prior variances; a row that does not count is independent of all others."""
    scaled = x / length
    kernel = _kernel(scaled, scaled) * (counts[:, None] & counts)
    return kernel + jnp.diag(jnp.where(counts, noise, 1.0))


def _amplitude(length: Array, noise: Array, x: Array, y: Array, counts: Array) -> Array:
    """`[D]` prior std of greatest likelihood, `sqrt(y^T K^-1 y / n)`, and a little.

    Args:
      length: `[I]`.
      noise: `[]`.
      x: `[N, I]`.
      y: `[N, D]`, 0 in rows that do not count.
      counts: `[N]` bool; a repeated row is no further evidence.
    """
    root = jnp.linalg.cholesky(_covariance(length, noise, x, counts))
    white = jax.scipy.linalg.solve_triangular(root, y, lower=True)
    var = jnp.sum(white**2, axis=0) / jnp.maximum(counts.sum(), 1)
    return jnp.sqrt(var + _LEAST_AMPLITUDE**2)


def _fit_kernel(x: Array, y: Array, counts: Array) -> tuple[Array, Array]:
    """Length scales `[I]` and noise share `[]` by Adam on the marginal likelihood."""
    start = (jnp.full(x.shape[1], _LOG_LENGTH_MEAN), jnp.log(1e-2))
    # A fit needs it, and what only plays an agent does not: a tenth of a second.
    import optax  # noqa: PLC0415

    optimizer = optax.adam(0.1)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        params, opt_state = carry
        grads = _misfit_gradient(params, x, y, counts)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(
        step, (start, optimizer.init(start)), None, length=_NUM_STEPS
    )
    return jnp.exp(params[0]), _noise(params[1])


def _misfit_gradient(
    params: tuple[Array, Array], x: Array, y: Array, counts: Array
) -> tuple[Array, Array]:
    """Gradient of what `_fit_kernel` minimises, for log lengths and log noise.

    That is `sum_d n/2 log(y_d^T K^-1 y_d / n + a^2) + D/2 log|K|`, each output's
    amplitude at its best but for the least a, and the prior of the lengths. Written out
    down to K (Rasmussen and Williams 2006, Eq. 5.9): through the Cholesky factor it
    takes twice the time.
    """
    covariance, back = jax.vjp(
        lambda p: _covariance(jnp.exp(p[0]), _noise(p[1]), x, counts), params
    )
    root = jnp.linalg.cholesky(covariance)
    whiten = jax.scipy.linalg.solve_triangular(root, jnp.eye(len(x)), lower=True)
    white = whiten @ y
    var = jnp.sum(white**2, axis=0) / jnp.maximum(counts.sum(), 1)
    pulls = whiten.T @ white
    slope = y.shape[1] * (whiten.T @ whiten)
    slope -= (pulls / (var + _LEAST_AMPLITUDE**2)) @ pulls.T
    ((length, noise),) = back(0.5 * slope)
    prior = (params[0] - _LOG_LENGTH_MEAN) / _LOG_LENGTH_STD**2
    return length + prior, noise


def _noise(log_noise: Array) -> Array:
    return _MIN_NOISE_SHARE + jnp.exp(log_noise)
