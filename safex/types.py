"""The data that flows between components, and the protocols they meet at.

Shape letters, used in every docstring: ``t`` time, ``H`` horizon, ``T`` episode
length, ``B`` batch, ``E`` ensemble members, ``P`` particles, ``N`` candidate samples,
``K`` elites, ``D`` observation dimension, ``A`` action dimension, ``C`` constraints.
"""

from typing import Any, NamedTuple, Protocol, Self

import jax

Array = jax.Array
PyTree = Any
Metrics = dict[str, Any]


class Transition(NamedTuple):
    """One step of experience, or a batch of them along leading axes.

    Attributes:
      obs: `[..., D]` observation before the step.
      action: `[..., A]` action in the normalised box [-1, 1].
      reward: `[...]` reward of the step.
      cost: `[..., C]` cost of the step under each constraint.
      next_obs: `[..., D]` observation after the step, before any reset.
      terminated: `[...]` bool, the task itself ended.
      truncated: `[...]` bool, only a time limit ended the episode.
    """

    obs: Array
    action: Array
    reward: Array
    cost: Array
    next_obs: Array
    terminated: Array
    truncated: Array


class Prediction(NamedTuple):
    """A belief about the next observation, its two uncertainties apart.

    Attributes:
      mean: `[D]` expected next observation.
      epistemic_std: `[D]` calibrated std of what the model does not know.
      aleatoric_std: `[D]` std of the noise the system itself has.
    """

    mean: Array
    epistemic_std: Array
    aleatoric_std: Array


class Score(NamedTuple):
    """What an objective says of one candidate.

    Attributes:
      value: `[]` to be maximised, mean reward per step.
      cost: `[C]` to be kept within the thresholds, summed over the horizon.
      margin: `[C]` smooth companion of the cost, in each limit's own unit: the distance
        past the limit, added up over the horizon, where it is passed (> 0), else the
        negative distance of the closest call. It orders what is not feasible.
    """

    value: Array
    cost: Array
    margin: Array


class Plan(NamedTuple):
    """The outcome of one optimisation.

    Attributes:
      actions: `[H, A]` the best sequence found.
      value: `[]` its value.
      cost: `[C]` its predicted costs, pessimistic where the planner is.
      margin: `[C]` its predicted margins, as in `Score`.
      feasible: `[]` bool, every predicted cost meets its threshold.
      backup_actions: `[H, A]` the sequence of least predicted margin seen at all, what
        to fall back to if the plan is not feasible.
    """

    actions: Array
    value: Array
    cost: Array
    margin: Array
    feasible: Array
    backup_actions: Array


class Step(NamedTuple):
    """What `Environment.step` returns.

    Attributes:
      state: the system's next state.
      obs: `[D]` observation of it.
      reward: `[]` reward of the step.
      cost: `[C]` cost of the step under each constraint.
      terminated: `[]` bool, the task itself ended.
      truncated: `[]` bool, only the time limit ended the episode.
    """

    state: Any
    obs: Array
    reward: Array
    cost: Array
    terminated: Array
    truncated: Array


class Environment(Protocol):
    """A pure JAX system: a pytree of its physical parameters with pure methods.

    `reward`, `cost` and `margin` are the only definition of the task, for the simulator
    and for every planner.
    """

    @property
    def obs_dim(self) -> int:
        """D."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def num_constraints(self) -> int:
        """C."""
        ...

    @property
    def max_steps(self) -> int:
        """Time limit of an episode [steps]."""
        ...

    @property
    def obs_names(self) -> tuple[str, ...]:
        """What each entry of an observation is, with its unit."""
        ...

    @property
    def limit_names(self) -> tuple[str, ...]:
        """What each constraint limits."""
        ...

    @property
    def limit_units(self) -> tuple[str, ...]:
        """The unit of each limit."""
        ...

    @property
    def limits(self) -> Array:
        """`[C]` the limits' values, each in its unit."""
        ...

    @property
    def noise_std(self) -> Array:
        """`[D]` std of the next observation given state and action."""
        ...

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Returns the first state and its observation."""
        ...

    def step(self, key: Array, state: Any, action: Array) -> Step:
        """Advances one step under an action in the normalised box."""
        ...

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Reward of a transition, `[D], [A], [D] -> []`."""
        ...

    def cost(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Costs of a transition, `[D], [A], [D] -> [C]`, never negative."""
        ...

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[C]` signed distances past the limits (> 0 violates), in their units."""
        ...

    def project(self, obs: Array) -> Array:
        """Nearest observation the system can really produce, `[D] -> [D]`."""
        ...

    def dynamics(self, obs: Array, action: Array) -> Array:
        """Noise-free next observation, `[D], [A] -> [D]`."""
        ...

    def far_state(self, key: Array) -> Any:
        """A state far from where a safe agent goes, to test extrapolation on."""
        ...

    def observe(self, state: Any) -> Array:
        """Noise-free observation of a state."""
        ...

    def backup(self, obs: Array) -> Array:
        """`[A]` a cautious action that brings the system to rest within its limits."""
        ...


class DynamicsModel(Protocol):
    """A learned (or known) model of the next observation.

    Difference targets, normalisation and calibration stay inside.
    """

    def init(self, key: Array) -> PyTree:
        """Returns the state of a model that has seen nothing."""
        ...

    def fit(self, key: Array, state: PyTree, data: "Dataset") -> tuple[PyTree, Metrics]:
        """Fits, then calibrates, on all valid rows of `data`."""
        ...

    def predict(self, state: PyTree, obs: Array, action: Array) -> Prediction:
        """Predicts one next observation, `[D], [A] -> Prediction`."""
        ...

    def member(
        self, state: PyTree, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """The same from one member alone; its epistemic std is 0 on known inputs."""
        ...

    def members(self, state: PyTree, obs: Array, action: Array) -> Prediction:
        """Every member on observations of its own, `[E, S, D] -> [E, S, D]`.

        The action is `[A]`, common to all, or `[E, S, A]`.
        """
        ...

    def select(self, state: PyTree, index: Array) -> PyTree:
        """The state of a model whose members are `index` `[G]`, for `members`."""
        ...

    def test_rows(self, data: "Dataset") -> Array:
        """`[capacity]` bool: rows that `fit` neither trains nor calibrates on."""
        ...

    @property
    def num_members(self) -> int:
        """How many members `member` can be asked for; 0 where there are none."""
        ...


class StagedModel(DynamicsModel, Protocol):
    """A model that can say its mean first, and how sure it was of many steps later.

    A rollout of the mean needs no stds to go on. What they cost is less for all its
    steps at once.
    """

    def outline(self, state: PyTree, obs: Array, action: Array) -> tuple[Array, PyTree]:
        """The mean `[D]` of `predict`, and what `complete` wants to know of it."""
        ...

    def complete(
        self, state: PyTree, obs: Array, action: Array, outline: PyTree
    ) -> Prediction:
        """What `predict` says, given what `outline` left for it."""
        ...


class SizedModel(DynamicsModel, Protocol):
    """A model that computes few inputs at once in another way than many."""

    def sized(self, batch_size: int) -> Self:
        """The same model for a planner that asks it of so many inputs at once."""
        ...


class Dataset(NamedTuple):
    """All experience so far, in buffers of a fixed size so that nothing recompiles.

    Attributes:
      transitions: `[capacity, ...]` buffers; rows from `size` on are padding.
      size: `[]` int32 count of valid rows.
    """

    transitions: Transition
    size: Array


class Replay(NamedTuple):
    """The newest experience of N parallel environments, a ring in time for each.

    Attributes:
      transitions: leaves `[capacity, N, ...]`.
      written: `[]` int32 steps written to each ring so far, ever; the next goes to row
        `written % capacity`.
    """

    transitions: Transition
    written: Array


class Agent(Protocol):
    """Something that acts and learns a model; the loop knows nothing else of it."""

    @property
    def beta(self) -> Array:
        """`[D]` multiple of its epistemic std that it claims the truth lies within."""
        ...

    def init(self, key: Array) -> PyTree:
        """Returns the state of an agent that has seen nothing."""
        ...

    def begin_episode(self, key: Array, state: PyTree) -> PyTree:
        """Forgets what must not cross an episode boundary (the warm start)."""
        ...

    def act(
        self, key: Array, state: PyTree, obs: Array, *, explore: bool
    ) -> tuple[PyTree, Array, Metrics]:
        """Chooses an action `[A]` for `obs` `[D]`."""
        ...

    def observe(self, state: PyTree, transition: Transition) -> PyTree:
        """Takes note of what the action led to, within the episode."""
        ...

    def update(
        self, key: Array, state: PyTree, data: Dataset
    ) -> tuple[PyTree, Metrics]:
        """Learns from all data so far."""
        ...

    def predict(self, state: PyTree, obs: Array, action: Array) -> Prediction:
        """The agent's belief about one next observation, `[D], [A] -> Prediction`."""
        ...

    def band(
        self, state: PyTree, obs: Array, actions: Array
    ) -> tuple[Array, Array, Array]:
        """Nominal, lowest and highest observations `[H, D]` of an action sequence."""
        ...

    def test_rows(self, data: Dataset) -> Array:
        """`[capacity]` bool: rows that `update` neither trains nor calibrates on."""
        ...


class OffPolicyAgent(Protocol):
    """Something that acts and learns from a replay, without a model."""

    def init(self, key: Array) -> PyTree:
        """Returns the state of an agent that has seen nothing."""
        ...

    def act(
        self, key: Array, state: PyTree, obs: Array, *, explore: bool
    ) -> tuple[Array, Metrics]:
        """Chooses an action `[A]` in [-1, 1] for one `obs` `[D]`; callers `vmap`."""
        ...

    def update(
        self,
        key: Array,
        state: PyTree,
        replay: Replay,
        episode_cost: Array,
        fresh: Array,
        *,
        num_updates: int,
    ) -> tuple[PyTree, Metrics]:
        """Learns from `num_updates` minibatches in one compiled call.

        Args:
          key: consumed.
          state: of the agent.
          replay: has at least one step of each environment.
          episode_cost: `[C]` mean cost return of the episodes that ended since the last
            call.
          fresh: `[]` bool, whether any did; multipliers move only then.
          num_updates: gradient updates, static.
        """
        ...
