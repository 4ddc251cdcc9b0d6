"""What every learned model trains with: which rows, on which scale, until when."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from safex.config import NetworkConfig
from safex.models.normalizer import Normalizer, fit_normalizer
from safex.types import Array, Dataset, Metrics, PyTree

# Consecutive steps that go to the same side of a split. Neighbours in time are nearly
# copies of each other; splitting them apart would leak the training set.
_BLOCK = 5


class Split(NamedTuple):
    """Which rows of a buffer are used for what, each `[capacity]` bool."""

    train: Array
    calibrate: Array
    test: Array


def split_rows(size: Array, capacity: int, train_share: float) -> Split:
    """Splits rows by position in blocks of consecutive steps.

    A row keeps its side for ever, so that warm-started weights have never seen a row
    that a later fit calls held-out.

    Args:
      size: `[]` valid rows.
      capacity: rows of the buffer.
      train_share: share of the rows that are trained on.
    """
    row = jnp.arange(capacity)
    valid = row < size
    block = row // _BLOCK
    # Block b is held out when the running count of held-out blocks steps up at it.
    held_out_share = 1.0 - train_share
    count = jnp.floor((block + 1) * held_out_share + 1e-4)
    held_out = valid & (count > jnp.floor(block * held_out_share + 1e-4))
    even = count % 2 == 1
    return Split(valid & ~held_out, held_out & even, held_out & ~even)


def first_rows(selected: Array, most: int) -> tuple[Array, Array]:
    """Indices of up to `most` selected rows, newest first, and which of them count.

    Newest first, because the newest data are closest to where the agent goes next.
    """
    most = min(most, selected.shape[0])
    order = jnp.argsort(~selected[::-1], stable=True)[:most]
    rows = selected.shape[0] - 1 - order
    return rows, selected[rows]


class Normalized(NamedTuple):
    """What a regression is fitted to.

    Attributes:
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
      x: `[capacity, D+A]` normalised inputs.
      y: `[capacity, D]` normalised targets.
    """

    inputs: Normalizer
    targets: Normalizer
    x: Array
    y: Array


def normalized(data: Dataset, train: Array) -> Normalized:
    """Inputs and difference targets, standardised by the rows in `train`."""
    transitions = data.transitions
    x = jnp.concatenate([transitions.obs, transitions.action], axis=-1)
    y = transitions.next_obs - transitions.obs
    inputs, targets = fit_normalizer(x, train), fit_normalizer(y, train)
    return Normalized(inputs, targets, inputs.normalize(x), targets.normalize(y))


def train_minibatches(
    key: Array,
    params: PyTree,
    config: NetworkConfig,
    num_members: int,
    split: Split,
    gradient: Callable[[PyTree, Array, PyTree], tuple[Array, PyTree]],
    held_out_loss: Callable[[PyTree], Array],
    draw: Callable[[Array, int], PyTree] = lambda key, steps: None,
) -> tuple[PyTree, Metrics]:
    """Minibatch Adam with held-out early stopping: one scan over blocks of steps.

    It does not recompile as the data grow.

    Args:
      key: consumed.
      params: where to start.
      config: how long, how fast, when to stop.
      num_members: E, each draws rows of its own.
      split: rows of the buffer.
      gradient: `(params, rows [E, B], drawn) -> loss [], grads`; rows come from the
        training rows only.
      held_out_loss: `params -> []`, least is best.
      draw: `(key, steps) -> leaves [steps, ...]`, whatever else is random in a step;
        drawn for a block of steps at once, as the rows are.

    Returns:
      the best parameters seen at an evaluation (or the last, as `config` says), and
      `train/loss`, `train/steps`, `held_out/nll`.
    """
    num_blocks = -(-config.num_training_steps // config.eval_frequency)
    num_steps = num_blocks * config.eval_frequency
    # A fit needs it, and what only plays an agent does not: a tenth of a second.
    import optax  # noqa: PLC0415

    schedule = optax.cosine_decay_schedule(config.lr_rate, num_steps, alpha=0.05)
    optimizer = optax.adam(schedule)
    train_rows = jnp.argsort(~split.train, stable=True)
    num_train = split.train.sum()

    def block(carry: Any, block_key: Array) -> tuple[Any, None]:
        def step(carry: Any, inputs: Any) -> tuple[Any, Array]:
            params, opt_state = carry
            index, drawn = inputs
            value, grads = gradient(params, train_rows[index], drawn)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        def train(carry: Any) -> Any:
            params, opt_state, best, best_loss, waited, _, steps = carry
            # One draw a block: a draw a step costs a fifth of the fit.
            shape = (config.eval_frequency, num_members, config.batch_size)
            index_key, draw_key = jax.random.split(block_key)
            index = jax.random.randint(index_key, shape, 0, num_train)
            drawn = draw(draw_key, config.eval_frequency)
            (params, opt_state), losses = jax.lax.scan(
                step, (params, opt_state), (index, drawn)
            )
            held_loss = held_out_loss(params)
            better = held_loss < best_loss
            best = jax.tree.map(partial(jnp.where, better), params, best)
            best_loss = jnp.where(better, held_loss, best_loss)
            waited = jnp.where(better, 0, waited + 1)
            steps = steps + config.eval_frequency
            return params, opt_state, best, best_loss, waited, losses.mean(), steps

        waited = carry[4]
        done = (config.patience > 0) & (waited >= config.patience)
        return jax.lax.cond(done, lambda carry: carry, train, carry), None

    start = (
        params,
        optimizer.init(params),
        params,
        jnp.full((), jnp.inf),
        jnp.zeros((), jnp.int32),
        jnp.zeros(()),
        jnp.zeros((), jnp.int32),
    )
    end, _ = jax.lax.scan(block, start, jax.random.split(key, num_blocks))
    params, _, best, best_loss, _, train_loss, steps = end
    metrics = {
        "train/loss": train_loss,
        "held_out/nll": best_loss,
        "train/steps": steps,
    }
    return (best if config.return_best_model else params), metrics
