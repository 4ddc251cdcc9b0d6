"""Every step of training in the plane of a system's two most telling coordinates.

The forbidden region is the system's own `margin`, evaluated on a grid of states whose
other coordinates are zero. It is only trusted for a constraint that says of every step
that was taken what it says of the same step moved onto that plane; a constraint on
anything else is left to the marks of the violating steps.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safex.training.account import EpisodeRecord
from safex.training.margins import limits_of
from safex.training.plots.style import finite
from safex.types import Array

_GRID = 241  # odd, so that a symmetric window has a line through its middle
_TOLERANCE = 1e-4
_NARROWEST = 0.6  # of two lengths the shorter side of the window, at least


class Path(NamedTuple):
    """An episode in the plane.

    Attributes:
      points: `[T, 2, 2]` before and after each step; an angle after the step is not
        wrapped, but the short way round from the one before.
      violating: `[T]` bool, past any limit.
    """

    points: np.ndarray
    violating: np.ndarray


class Portrait(NamedTuple):
    """What is drawn.

    Attributes:
      paths: per seed its episodes.
      labels: of the two axes.
      angles: per axis whether it wraps at ±pi.
      window: per axis the lowest and highest value shown.
      bounded: per axis whether a limit lies across the window on both sides.
      grid: per axis `[n]` values.
      margin: `[n, n]` largest margin of the constraints that the plane shows, second
        axis of the plane first; None where it shows none.
      forbidden: what these constraints forbid, in words.
    """

    paths: Sequence[Sequence[Path]]
    labels: tuple[str, str]
    angles: tuple[bool, bool]
    window: tuple[tuple[float, float], tuple[float, float]]
    bounded: tuple[bool, bool]
    grid: tuple[np.ndarray, np.ndarray]
    margin: np.ndarray | None
    forbidden: tuple[str, ...]

    @property
    def isometric(self) -> bool:
        """Whether both axes are lengths, to be drawn to one scale."""
        return all(label.endswith("[m]") for label in self.labels)


def phase_portrait(
    env: Any, records_by_seed: Sequence[Sequence[EpisodeRecord]]
) -> Portrait:
    """Brings all steps into the plane of `env.portrait`.

    Args:
      env: the system.
      records_by_seed: per seed its episodes, the random phase first.

    Raises:
      ValueError: no seed or no episode, shapes that do not match, or a value that is
        not finite.
    """
    if len(records_by_seed) == 0 or any(len(r) == 0 for r in records_by_seed):
        raise ValueError("records_by_seed must hold an episode for at least one seed")
    for s, records in enumerate(records_by_seed):
        for e, record in enumerate(records):
            _check(f"records_by_seed[{s}][{e}]", env, record)
    plane = _Plane(env)
    every = [record for records in records_by_seed for record in records]
    before = plane.states(np.concatenate([record.obs for record in every]))
    after = plane.states(np.concatenate([record.next_obs for record in every]))
    action = np.concatenate([record.action for record in every])
    steps = np.stack([before, after], axis=1)[:, :, plane.axes]
    shown = plane.shown(before, action, after)
    extents = [_extent(plane, axis, steps, shown) for axis in (0, 1)]
    low, high = np.array([window for window, _ in extents]).T
    if all(label.endswith("[m]") for label in plane.labels):
        # Drawn to one scale, a narrow strip would leave no room for its letters.
        lacking = np.maximum(0.0, _NARROWEST * (high - low).max() - (high - low))
        low, high = low - 0.5 * lacking, high + 0.5 * lacking
    grid = np.linspace(low, high, _GRID).T
    x, y = np.meshgrid(*grid)
    margin = plane.margin(np.stack([x.ravel(), y.ravel()], axis=1))
    margin = margin.reshape(_GRID, _GRID, -1)
    shown = shown & (margin > 0).any((0, 1))
    # The short way round: a step over the seam leaves the window, not crosses it.
    turn = steps[:, 1] - steps[:, 0]
    turn = np.where(plane.angles, np.mod(turn + np.pi, 2 * np.pi) - np.pi, turn)
    steps[:, 1] = steps[:, 0] + turn
    ends = iter(np.split(steps, np.cumsum([len(r.obs) for r in every])[:-1]))
    return Portrait(
        paths=[
            [Path(next(ends), np.any(r.margin > 0, axis=1)) for r in records]
            for records in records_by_seed
        ],
        labels=plane.labels,
        angles=plane.angles,
        window=((float(low[0]), float(high[0])), (float(low[1]), float(high[1]))),
        bounded=(extents[0][1], extents[1][1]),
        grid=(grid[0], grid[1]),
        margin=margin[..., shown].max(-1) if shown.any() else None,
        forbidden=tuple(plane.rules[c] for c in np.flatnonzero(shown)),
    )


class _Plane:
    """The plane of a system's portrait, and its margin there."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.axes = [env.state_names.index(name) for name in env.portrait]
        x, y = (name in env.angle_names for name in env.portrait)
        self.angles = (x, y)
        self.labels = _labels(env)
        self.rules = [
            # A name such as |x| is of something that must not be larger.
            f"{limit.name} > {limit.value:g} {limit.unit}"
            if limit.name.startswith("|")
            else f"{limit.name}, limit {limit.value:g} {limit.unit}"
            for limit in limits_of(env)
        ]

    def states(self, obs: np.ndarray) -> np.ndarray:
        """`[N, S]` coordinates `state_names` of observations `[N, D]`."""
        return np.array(_states(self.env, jnp.asarray(obs)), np.float64)

    def margin(self, points: np.ndarray) -> np.ndarray:
        """`[N, C]` margins of staying at points `[N, 2]`, all else zero."""
        states = np.zeros((len(points), len(self.env.state_names)), np.float32)
        states[:, self.axes] = points
        action = np.zeros((len(points), self.env.action_dim), np.float32)
        return np.asarray(_margins(self.env, states, action, states))

    def shown(
        self, before: np.ndarray, action: np.ndarray, after: np.ndarray
    ) -> np.ndarray:
        """`[C]` bool: whether the plane tells the margin of every step taken."""
        states = before.astype(np.float32), action, after.astype(np.float32)
        true = np.asarray(_margins(self.env, *states))
        told = self.margin(after[:, self.axes])
        return np.all(np.abs(true - told) <= _TOLERANCE * (1.0 + np.abs(true)), axis=0)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def _states(env: Any, obs: Array) -> Array:
    state = env.state_from_obs(obs)
    return jnp.stack([getattr(state, name) for name in env.state_names])


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0, 0))
def _margins(env: Any, before: Array, action: Array, after: Array) -> Array:
    obs, next_obs = (env.observe(env.state_at(*state)) for state in (before, after))
    return env.margin(obs, action, next_obs)


def _check(name: str, env: Any, record: EpisodeRecord) -> None:
    obs = finite(f"{name}.obs", record.obs, (None, env.obs_dim))
    finite(f"{name}.next_obs", record.next_obs, obs.shape)
    finite(f"{name}.action", record.action, (len(obs), env.action_dim))
    finite(f"{name}.margin", record.margin, (len(obs), env.num_constraints))


def _labels(env: Any) -> tuple[str, str]:
    """The system's own words, else the names with their units."""
    if env.portrait_labels:
        x, y = env.portrait_labels
        return x, y
    known = {label.split(" [")[0]: label for label in env.obs_names}
    known |= {name: f"{name} [rad]" for name in env.angle_names}
    x, y = (known.get(name, name) for name in env.portrait)
    return x, y


def _extent(
    plane: _Plane, axis: int, steps: np.ndarray, shown: np.ndarray
) -> tuple[tuple[float, float], bool]:
    """What is shown along an axis, and whether limits bound it on both sides."""
    if plane.angles[axis]:
        return (-np.pi, np.pi), False
    values = steps[..., axis]
    low, high = _limits_across(plane, axis, steps, shown)
    if low is not None and high is not None:
        middle = 0.5 * (low + high)
        beyond = 1.05 * np.abs(values - middle).max()
        half = max(0.65 * (high - low), beyond)
        return (float(middle - half), float(middle + half)), True
    ends = [x for x in (low, high, values.min(), values.max()) if x is not None]
    room = 0.08 * (max(ends) - min(ends) or 1.0)
    return (float(min(ends) - room), float(max(ends) + room)), False


def _limits_across(
    plane: _Plane, axis: int, steps: np.ndarray, shown: np.ndarray
) -> tuple[float | None, float | None]:
    """Where everything further out is forbidden, whatever the other coordinate is.

    Looked for on both sides of the median, up to 30 times as far as the data reach.
    """
    if not shown.any():
        return None, None
    values, others = steps[..., axis], steps[..., 1 - axis]
    middle = np.median(values)
    reach = np.abs(values - middle).max() or 1.0
    offsets = np.concatenate([[0.0], reach * np.geomspace(0.01, 30.0, 120)])
    other = np.quantile(others, np.linspace(0.0, 1.0, 9))
    found: list[float | None] = []
    for sign in (-1.0, 1.0):
        points = np.empty((len(offsets), len(other), 2))
        points[..., axis] = (middle + sign * offsets)[:, None]
        points[..., 1 - axis] = other
        margin = plane.margin(points.reshape(-1, 2))[:, shown].max(1)
        least = margin.reshape(len(offsets), len(other)).min(1)
        past = np.flatnonzero(least > 0)
        found.append(None)
        if past.size and past[0] > 0:
            i = past[0]
            share = least[i - 1] / (least[i - 1] - least[i])
            offset = offsets[i - 1] + share * (offsets[i] - offsets[i - 1])
            found[-1] = float(middle + sign * offset)
    return found[0], found[1]
