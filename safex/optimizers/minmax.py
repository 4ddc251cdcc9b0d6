"""Alternating min-max search: an agent x against an adversary y.

`max_x value(x)  s.t.  max_y cost(x, y) <= d`. Both players are sampled with coloured
noise and refitted by the cross-entropy method; each answers a small set of the other's
best replies. In the worst-case mode the adversaries are an archive that fresh ones push
out in order of age, which makes the x-step a cutting-plane bound on the inner maximum.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safex.config import MinMaxConfig
from safex.constraints.rule import Constraint, total_margin
from safex.optimizers import gaussian
from safex.optimizers.gaussian import Candidates
from safex.optimizers.spread import mapped, share
from safex.types import Array, Metrics, Plan, PyTree, Score

# All sign patterns up to this many adversary dimensions (16 sequences), axes beyond.
_MAX_CORNER_DIM = 4


class Game(NamedTuple):
    """The factored objective: value never sees y, so it is computed once per x.

    Attributes:
      nominal: `x [H, X] -> (Score, known)`, the value, and the cost without an
        adversary; and whatever else of x all attacks on it want to know, a pytree.
      attacked: `x [H, X], y [H, Y], known -> (cost [C], margin [C])`.
    """

    nominal: Callable[[Array], tuple[Score, PyTree]]
    attacked: Callable[[Array, Array, PyTree], tuple[Array, Array]]


class _Agents(NamedTuple):
    """Agents that were looked at without an adversary.

    Attributes:
      candidates: `[Ex, H, X]` and their scores.
      known: leaves `[Ex, ...]`, of `Game.nominal`.
    """

    candidates: Candidates
    known: PyTree

    def pair(self, x: Array, y: Array) -> tuple[Array, Array, PyTree]:
        """What `Game.attacked` takes of agent number `x` under adversary `y`."""
        return self.candidates.actions[x], y, gaussian.take(self.known, x)


class MinMaxState(NamedTuple):
    """What the next decision starts from.

    Attributes:
      x_mean: `[H, X]` mean of the agent's search.
      x_elites: `[Ex, H, X]` the agent's best sequences.
      y_mean: `[H, Y]` mean of the adversary's search.
      archive: `[E, H, Y]` adversaries, newest first.
    """

    x_mean: Array
    x_elites: Array
    y_mean: Array
    archive: Array


class _Draws(NamedTuple):
    """What chance has to say to the refits of a search, leaves `[iterations, ...]`.

    Attributes:
      noise: `[N, H, Y]` or `[N, H, X]` of unit variance.
      pick_key: of the elites where they are drawn at random.
    """

    noise: Array
    pick_key: Array


class _Attack(NamedTuple):
    """Adversaries and the harm `[N, Ex, C]` each does to each agent."""

    y: Array
    cost: Array
    margin: Array

    @classmethod
    def of(cls, y: Array, cost: Array, margin: Array) -> "_Attack":
        """One whose outcome is not known does all harm there is."""
        # A cost that counts margins above 0 does not see one that is NaN.
        known = (jnp.isfinite(cost) & ~jnp.isnan(margin)).all(-1, keepdims=True)
        harm = (jnp.where(known, leaf, jnp.inf) for leaf in (cost, margin))
        return cls(y, *harm)


@dataclasses.dataclass(frozen=True)
class MinMax:
    """The two-player optimizer.

    Attributes:
      x_dim: X, dimension of the agent's sequence.
      y_dim: Y, dimension of the adversary's sequence.
      config: budget.
      num_devices: local devices that share out the candidates, see `spread.mapped`.
    """

    x_dim: int
    y_dim: int
    config: MinMaxConfig
    num_devices: int = 1

    @property
    def batch_size(self) -> int:
        """Pairs of agent and adversary that a device scores at once in a step.

        The verification, of which there is one, and climbers by gradient may be more.
        """
        c = self.config
        x_step = (c.num_samples_x + 1 + c.num_fixed_elites_x) * c.num_fixed_elites_y
        adversaries = c.num_fixed_elites_y + c.num_samples_y
        if c.corners:
            adversaries += len(self._corners())
        rows = max(x_step, adversaries * c.num_fixed_elites_x)
        return share(rows, self.num_devices)

    def init(self, key: Array) -> MinMaxState:
        """Zero agents; adversaries at random corners, so that none is idle."""
        c = self.config
        corners = jax.random.rademacher(key, (c.num_fixed_elites_y, 1, self.y_dim))
        y_shape = (c.num_fixed_elites_y, c.horizon, self.y_dim)
        return MinMaxState(
            x_mean=jnp.zeros((c.horizon, self.x_dim)),
            x_elites=jnp.zeros((c.num_fixed_elites_x, c.horizon, self.x_dim)),
            y_mean=jnp.zeros((c.horizon, self.y_dim)),
            archive=jnp.broadcast_to(corners, y_shape).astype(jnp.float32),
        )

    def shift(self, state: MinMaxState, last: Array | None = None) -> MinMaxState:
        """Warm start of the next time step: everything one step ahead."""
        return MinMaxState(
            x_mean=gaussian.shift(state.x_mean, last=last),
            x_elites=gaussian.shift(state.x_elites, 1, last),
            y_mean=gaussian.shift(state.y_mean),
            archive=gaussian.shift(state.archive, axis=1),
        )

    def optimize(
        self, key: Array, state: MinMaxState, objective: Game, constraint: Constraint
    ) -> tuple[MinMaxState, Plan, Metrics]:
        """Plays the game once.

        Args:
          key: consumed.
          state: warm start.
          objective: the game.
          constraint: how the agent's candidates are ordered.

        Returns:
          next state, plan (its cost is the worst one found), and the agent's value and
          cost and the harm done by the adversary at each outer iteration.
        """
        c = self.config
        # Traced once for all the places that they are mapped in.
        objective = Game(jax.jit(objective.nominal), jax.jit(objective.attacked))

        def iterate(state: MinMaxState, inputs: tuple) -> tuple[MinMaxState, tuple]:
            y_draws, x_draws, std = inputs
            agents = self._agents(objective, state.x_elites)
            state, attack = self._y_step(y_draws, state, agents, objective)
            state, ordered = self._x_step(x_draws, state, std, objective, constraint)
            info = {
                "value": ordered.score.value[0],
                "cost": ordered.score.cost[0],
                "attack_cost": attack.cost.max((0, 1)),
                "feasible_share": constraint.feasible(ordered.score).mean(),
            }
            safest = ordered.actions[gaussian.safest(ordered.score)]
            return state, (info, safest)

        y_draws, x_draws = self._draws(key)
        stds = c.init_std_x * c.std_decay ** jnp.arange(c.iterations)
        inputs = (gaussian.take(y_draws, slice(-1)), x_draws, stds)
        state, (info, safest) = jax.lax.scan(iterate, state, inputs)

        finalists = jnp.concatenate([state.x_elites, state.x_mean[None], safest[-1:]])
        agents = self._agents(objective, jnp.clip(finalists, -1.0, 1.0))
        if c.verify:
            # The adversaries of this attack stay in the archive, so that the next
            # decision starts from what beat this one.
            last = gaussian.take(y_draws, -1)
            state, attack = self._y_step(last, state, agents, objective)
        else:
            attack = self._attack(objective, agents, state.archive)
        worst = self._worst(agents.candidates, attack, mode="worst_case")
        worst = gaussian.take(worst, constraint.order(worst.score))
        incumbent = gaussian.update_incumbent(
            gaussian.no_incumbent(c.horizon, self.x_dim, constraint),
            worst,
            constraint,
        )
        plan = gaussian.to_plan(incumbent, constraint)
        return state._replace(x_mean=plan.actions), plan, info

    def _draws(self, key: Array) -> tuple[_Draws, _Draws]:
        """Of each y-step, the last one being the verification's, and of each x-step.

        All at once, since every place that draws has to be compiled.
        """
        c = self.config
        final_key, *keys = jax.random.split(key, c.iterations + 1)
        y_keys, x_keys = jax.vmap(jax.random.split, out_axes=1)(jnp.stack(keys))
        y_keys = jnp.concatenate([y_keys, final_key[None]])

        def draw(key: Array, exponent: float, shape: tuple[int, int, int]) -> _Draws:
            noise_key = pick_key = key
            if c.random_elites:
                noise_key, pick_key = jax.random.split(key)
            return _Draws(gaussian.coloured_noise(noise_key, exponent, shape), pick_key)

        def refits(
            keys: Array, num_iter: int, exponent: float, num_samples: int, dim: int
        ) -> _Draws:
            each = jax.vmap(partial(jax.random.split, num=num_iter))(keys)
            shape = (num_samples, c.horizon, dim)
            one = partial(draw, exponent=exponent, shape=shape)
            draws = jax.vmap(one)(each.reshape(-1, *key.shape))
            return jax.tree.map(
                lambda leaf: leaf.reshape(len(keys), num_iter, *leaf.shape[1:]), draws
            )

        return (
            refits(y_keys, c.num_iter_y, c.exponent_y, c.num_samples_y, self.y_dim),
            refits(x_keys, c.num_iter_x, c.exponent_x, c.num_samples_x, self.x_dim),
        )

    def _y_step(
        self, draws: _Draws, state: MinMaxState, agents: _Agents, game: Game
    ) -> tuple[MinMaxState, _Attack]:
        """The adversary answers the agents; returns all that was tried."""
        c = self.config
        known = state.archive
        if c.corners:
            known = jnp.concatenate([known, self._corners()])

        def samples(mean: Array, std: Array, noise: Array) -> Array:
            return jnp.clip(mean + std * noise, -1.0, 1.0)

        def refit(
            mean: Array, std: Array, pick_key: Array, pool: _Attack
        ) -> tuple[Array, Array]:
            elites = pool.y[_most_harmful(pool)[: c.num_elites_y]]
            if c.random_elites:
                elites = jax.random.choice(pick_key, pool.y, (c.num_elites_y,))
            return gaussian.refit(mean, std, elites, 0.0, c.min_std)

        # The first samples share a batch with those that are known.
        mean, std = state.y_mean, jnp.full_like(state.y_mean, c.init_std_y)
        first, others = gaussian.take(draws, 0), gaussian.take(draws, slice(1, None))
        pushes = jnp.concatenate([known, samples(mean, std, first.noise)])
        attack = self._attack(game, agents, pushes)
        known_attack = gaussian.take(attack, slice(known.shape[0]))
        mean, std = refit(mean, std, first.pick_key, attack)

        def again(
            carry: tuple[Array, Array], draws: _Draws
        ) -> tuple[tuple[Array, Array], _Attack]:
            mean, std = carry
            fresh = self._attack(game, agents, samples(mean, std, draws.noise))
            pool = _concatenate(known_attack, fresh)
            return refit(mean, std, draws.pick_key, pool), fresh

        if c.num_iter_y > 1:
            (mean, std), tried = jax.lax.scan(again, (mean, std), others)
            tried = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tried)
            attack = _concatenate(attack, tried)
        if c.gradient_steps:
            climbed = self._climb(game, agents, attack)
            attack = _concatenate(attack, self._attack(game, agents, climbed))
        archive = self._next_archive(attack, state.archive)
        return state._replace(y_mean=mean, archive=archive), attack

    def _climb(self, game: Game, agents: _Agents, attack: _Attack) -> Array:
        """Adversaries on the way uphill from the worst, `[Ex C steps, H, Y]`.

        `y <- clip(y + size sign(d margin_c(x, y) / d y), -1, 1)` for each agent x and
        constraint c (projected gradient descent of Madry et al. 2018, arXiv 1706.06083,
        with the margin for the loss). The margin is what the gradient sees; whether an
        adversary is worse is for the pool to say.
        """
        c = self.config
        _, num_agents, num_constraints = attack.cost.shape
        pairs = jnp.arange(num_agents * num_constraints)
        which_x, which_c = jnp.divmod(pairs, num_constraints)

        def climb(y: Array, x: Array, constraint: Array) -> Array:
            def margin(y: Array) -> Array:
                return game.attacked(*agents.pair(x, y))[1][constraint]

            def step(y: Array, _: None) -> tuple[Array, Array]:
                slope = jnp.sign(jnp.nan_to_num(jax.grad(margin)(y)))
                y = jnp.clip(y + c.gradient_step_size * slope, -1.0, 1.0)
                return y, y

            return jax.lax.scan(step, y, None, c.gradient_steps)[1]

        start = attack.y[_worst_replies(attack)]
        found = jax.vmap(climb)(start, which_x, which_c)
        return found.reshape(-1, *found.shape[2:])

    def _x_step(
        self,
        draws: _Draws,
        state: MinMaxState,
        std: Array,
        game: Game,
        constraint: Constraint,
    ) -> tuple[MinMaxState, Candidates]:
        """The agent answers the archive; returns its last candidates, best first."""
        c = self.config

        widths = np.ones((c.num_iter_x, c.num_samples_x, 1, 1), np.float32)
        widths[0, :, 0, 0] = np.geomspace(1.0, 1.0 / c.std_spread_x, c.num_samples_x)

        def refit(carry: tuple, inputs: tuple) -> tuple[tuple, Candidates]:
            mean, std, kept = carry
            draws, widths = inputs
            samples = mean + widths * std * draws.noise
            # The mean and the best so far are candidates as well.
            samples = jnp.concatenate([samples, mean[None], kept])
            samples = jnp.clip(samples, -1.0, 1.0)
            candidates = self._withstand(game, samples, state.archive)
            candidates = gaussian.take(candidates, constraint.order(candidates.score))
            kept = candidates.actions[: c.num_fixed_elites_x]
            elites = candidates.actions[: c.num_elites_x]
            if c.random_elites:
                elites = jax.random.choice(
                    draws.pick_key, candidates.actions, (c.num_elites_x,)
                )
            mean, std = gaussian.refit(mean, std, elites, 0.0, c.min_std)
            return (mean, std, kept), candidates

        start = (state.x_mean, jnp.full_like(state.x_mean, std), state.x_elites)
        (mean, _, kept), candidates = jax.lax.scan(refit, start, (draws, widths))
        return state._replace(x_mean=mean, x_elites=kept), gaussian.take(candidates, -1)

    def _withstand(self, game: Game, agents: Array, archive: Array) -> Candidates:
        """Agents `[N, H, X]` scored against the archive."""
        looked_at = self._agents(game, agents)
        attack = self._attack(game, looked_at, archive)
        return self._worst(looked_at.candidates, attack, self.config.mode)

    def _agents(self, game: Game, agents: Array) -> _Agents:
        """Agents `[Ex, H, X]` without an adversary."""
        score, known = mapped(game.nominal, self.num_devices)(agents)
        return _Agents(gaussian.scored(agents, score), known)

    def _worst(self, nominal: Candidates, attack: _Attack, mode: str) -> Candidates:
        """Joins the value with the cost under attack."""
        score = nominal.score
        if mode == "mean":
            cost, margin = attack.cost.mean(0), attack.margin.mean(0)
        else:
            # No adversary at all is one more adversary, and already paid for.
            cost = jnp.maximum(score.cost, attack.cost.max(0))
            margin = jnp.maximum(score.margin, attack.margin.max(0))
        return Candidates(nominal.actions, Score(score.value, cost, margin))

    def _attack(self, game: Game, agents: _Agents, adversaries: Array) -> _Attack:
        """Every adversary `[N, H, Y]` against every agent."""
        # Every pair is a row, so that an uneven number of either still shares out.
        numbers = (len(adversaries), len(agents.candidates.actions))
        which_y, which_x = jnp.divmod(jnp.arange(numbers[0] * numbers[1]), numbers[1])

        def play(y: Array, x: Array) -> tuple[Array, Array]:
            return game.attacked(*agents.pair(x, adversaries[y]))

        rows = mapped(play, self.num_devices)(which_y, which_x)
        harm = (leaf.reshape(*numbers, *leaf.shape[1:]) for leaf in rows)
        return _Attack.of(adversaries, *harm)

    def _next_archive(self, attack: _Attack, archive: Array) -> Array:
        """The adversaries that the next x-step must withstand."""
        size = self.config.num_fixed_elites_y
        if self.config.mode == "mean":
            return attack.y[_most_harmful(attack)[:size]]
        # The worst reply to each agent under each constraint first, then older ones;
        # the best agent's come first, should not all of them find room.
        queue = jnp.concatenate([attack.y[_worst_replies(attack)], archive])
        # One adversary is often the worst reply to all agents, and so again in the next
        # iteration; its copies would push out the others that bound the inner maximum.
        same = jnp.all(queue[:, None] == queue[None], axis=(2, 3))
        copy = jnp.any(jnp.tril(same, -1), axis=1)
        return queue[jnp.argsort(copy, stable=True)[:size]]

    def _corners(self) -> Array:
        """Adversaries that push one way, for a while or all the time, `[N, H, Y]`."""
        H = self.config.horizon
        return first_steps(corner_signs(self.y_dim), H, (1, -(-H // 4), H))


def corner_signs(dim: int) -> Array:
    """Directions to push in, `[corners, dim]`: all sign patterns, or axes if many."""
    if dim <= _MAX_CORNER_DIM:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=dim)))
    else:
        signs = np.concatenate([np.eye(dim), -np.eye(dim)])
    return jnp.asarray(signs, jnp.float32)


def first_steps(pushes: Array, length: int, durations: Sequence[int]) -> Array:
    """Each push `[N, Y]` held for each duration and then let go, `[N', length, Y]`."""
    until = jnp.asarray(sorted({min(d, length) for d in durations}))
    active = jnp.arange(length) < until[:, None]
    etas = active[:, None, :, None] * pushes[None, :, None]
    return etas.reshape(-1, length, pushes.shape[1])


def doubling(length: int) -> list[int]:
    """1, 2, 4, ... below a length, and the length itself."""
    return [2**k for k in range(length.bit_length()) if 2**k < length] + [length]


def _worst_replies(attack: _Attack) -> Array:
    """Indices `[Ex C]`, the constraints of an agent side by side."""
    return gaussian.foremost(-attack.margin, -attack.cost).ravel()


def _most_harmful(attack: _Attack) -> Array:
    """Indices of adversaries by mean cost over the agents, then by mean margin."""
    margin = total_margin(attack.margin).mean(1)
    return jnp.lexsort((-margin, -attack.cost.sum(-1).mean(1)))


def _concatenate(*parts: _Attack) -> _Attack:
    return _Attack(*(jnp.concatenate(leaves) for leaves in zip(*parts, strict=True)))
