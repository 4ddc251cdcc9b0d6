"""Environments of other packages, stepped in parallel by processes of their own."""

import contextlib
import importlib
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.tree_util import Partial

from safex.envs import worker
from safex.envs.vector import Policy
from safex.envs.worker import Block, Facts, Failure, Make, Outcome, Seeds
from safex.errors import ContractError, NonFiniteError, SafexError, SimulatorError
from safex.types import Array, Transition

Floats = npt.NDArray[np.float32]
SERVE = "import sys; from safex.envs.worker import main; main(int(sys.argv[1]))"
CLOSE_TIMEOUT = 5.0  # seconds that a worker may take to end by itself


class ProcessState(NamedTuple):
    """Where the environments are, in a form that can be saved.

    An episode is a function of its seed and its actions, so these are its state: a
    simulator has no other way to say it.

    Attributes:
      stream: `[N]` uint32, what the seeds of each environment's episodes come from.
      episode: `[N]` int32, which one it is in.
      steps: `[N]` int32, steps it has taken in it.
      actions: `[N, max_steps, A]` float32, with which actions; zero from there on.
    """

    stream: npt.NDArray[np.uint32]
    episode: npt.NDArray[np.int32]
    steps: npt.NDArray[np.int32]
    actions: Floats


class FromFacts:
    """Sizes and limits of a task of another package.

    Each cost is a constraint with the limit 0, in the unit "cost a step": these tasks
    say what a step costs, and no distance to any limit.
    """

    facts: Facts

    @property
    def obs_dim(self) -> int:
        """D."""
        return self.facts.obs_dim

    @property
    def action_dim(self) -> int:
        """A."""
        return self.facts.action_dim

    @property
    def num_constraints(self) -> int:
        """C."""
        return len(self.facts.costs)

    @property
    def max_steps(self) -> int:
        """Time limit of an episode [steps]."""
        return self.facts.max_steps

    @property
    def limit_names(self) -> tuple[str, ...]:
        """What each constraint limits."""
        return self.facts.costs

    @property
    def limit_units(self) -> tuple[str, ...]:
        """The unit of each limit."""
        return ("cost a step",) * self.num_constraints

    @property
    def limits(self) -> Array:
        """`[C]` zeros: any cost is past the limit by itself."""
        return jnp.zeros(self.num_constraints)


class ProcessVector(FromFacts):
    """N environments in W worker processes; the protocol `VectorEnv`.

    Numbers do not depend on W: each environment has seeds of its own, drawn from the
    key of `reset`, and one more for each episode. `rollout` goes on from any state,
    also one of another process: it takes the steps of the episode again.

    A worker is a fresh interpreter without JAX (which has threads, and must not be
    forked); it ends with this object and with this process, however that ends.

    Attributes:
      num_envs: N.
      facts: what is fixed about the environment.
    """

    def __init__(
        self,
        make: Make,
        num_envs: int,
        *,
        workers: int | None = None,
        facts: Facts | None = None,
    ) -> None:
        """Makes all environments.

        Args:
          make: makes one; with workers, something that `pickle` can name.
          num_envs: N.
          workers: W, at most N; 0 steps all in this process, None takes one a core.
          facts: of the environment; None makes one to see.

        Raises:
          ValueError: fewer than one environment, or than zero workers.
          SafexError: an environment does not keep the contract.
          SimulatorError: it failed otherwise, or cannot be sent to a worker.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs must be >= 1, got {num_envs}")
        if workers is not None and workers < 0:
            raise ValueError(f"workers must be >= 0, got {workers}")
        self.num_envs = num_envs
        self.facts = worker.facts(make) if facts is None else facts
        wanted = _cores() if workers is None else workers
        count = min(wanted, num_envs)
        self._held: ProcessState | None = None
        self._blocks: _Local | _Remote
        self._blocks = (
            _Remote(make, num_envs, count, self.facts.name)
            if count
            else _Local(make, num_envs)
        )

    def blank(self) -> tuple[ProcessState, Array]:
        """Zeros of the shapes and types that `reset` returns."""
        shape = (self.num_envs, self.max_steps, self.action_dim)
        state = ProcessState(
            stream=np.zeros(self.num_envs, np.uint32),
            episode=np.zeros(self.num_envs, np.int32),
            steps=np.zeros(self.num_envs, np.int32),
            actions=np.zeros(shape, np.float32),
        )
        return state, jnp.zeros((self.num_envs, self.obs_dim))

    def reset(self, key: Array) -> tuple[ProcessState, Array]:
        """Begins the first episode of each environment.

        Args:
          key: settles the seeds of all episodes that follow.

        Returns:
          The state, and the observations `[N, D]`.

        Raises:
          SimulatorError: an environment failed, or its process ended.
          NonFiniteError: an observation is not finite.
        """
        stream = np.array(jax.random.bits(key, (self.num_envs,), np.uint32))
        state = self.blank()[0]._replace(stream=stream)
        return state, jnp.asarray(self._begin(state))

    def rollout(
        self, key: Array, state: ProcessState, obs: Array, policy: Policy, steps: int
    ) -> tuple[tuple[ProcessState, Array], Transition, Array]:
        """Steps all environments; as in `VectorEnv`.

        Args:
          key: for the policy.
          state: where the environments are.
          obs: `[N, D]` what they show there.
          policy: maps a key and observations `[N, D]` to actions `[N, A]`; compiled
            once, as in `JaxVector`.
          steps: T.

        Returns:
          State and observations to go on from; a `Transition` with leaves `[T, N,
          ...]`; and the costs `[T, N, C]` again, in place of the distances that these
          environments do not know.

        Raises:
          ContractError: the state cannot be reached again, or a step says no cost.
          NonFiniteError: an action or what a step gives is not finite.
          SimulatorError: an environment failed, or its process ended.
        """
        if not isinstance(policy, Partial):
            policy = Partial(policy)
        state = _copy(state)  # changed below
        now = np.asarray(obs, np.float32)
        self._hold(state, now)
        rows = []
        for step_key in jax.random.split(key, steps):
            action = self._checked(_act(policy, step_key, now))
            outcome = self._step(state, action)
            rows.append(
                (
                    now,
                    action,
                    outcome.reward,
                    outcome.cost,
                    outcome.next_obs,
                    outcome.terminated,
                    outcome.truncated,
                )
            )
            now = outcome.obs
        self._held = state
        leaves = (jnp.asarray(np.stack(leaf)) for leaf in zip(*rows, strict=True))
        transition = Transition(*leaves)
        return (_copy(state), jnp.asarray(now)), transition, transition.cost

    def seeds(self, state: ProcessState) -> list[int]:
        """Of the episodes that environments are in: `reset(seed=...)` begins them."""
        found: list[int] = _seeds(state.stream, state.episode).tolist()
        return found

    def close(self) -> None:
        """Ends the environments and their processes; may be called again."""
        self._held = None
        self._blocks.close()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def _begin(self, state: ProcessState) -> Floats:
        seeds = _seeds(state.stream, state.episode)
        with self._closing_on_error():
            obs = self._blocks.begin(seeds, state.steps, state.actions)
        self._held = state
        return obs

    def _hold(self, state: ProcessState, obs: Floats) -> None:
        """Brings the environments to `state`, where they are not there already."""
        held = self._held
        if held is not None and all(map(np.array_equal, held, state)):
            return
        reached = self._begin(state)
        # The digits of another machine may differ in the last place.
        if not np.allclose(reached, obs, rtol=1e-3, atol=1e-3):
            raise ContractError(
                f"{self.facts.name} does not come to the same observations again from "
                "seeds and actions: this state cannot be gone on from"
            )

    def _step(self, state: ProcessState, action: Floats) -> Outcome:
        """One step, noted in `state`."""
        each = np.arange(self.num_envs)
        state.actions[each, state.steps] = action
        state.steps[:] += 1
        self._held = None  # whatever fails from here on, they are somewhere else
        with self._closing_on_error():
            next_seeds = _seeds(state.stream, state.episode + 1)
            outcome = self._blocks.step(action, next_seeds)
        ended = outcome.terminated | outcome.truncated
        state.episode[ended] += 1
        state.steps[ended] = 0
        state.actions[ended] = 0.0
        return outcome

    def _checked(self, action: Array) -> Floats:
        found = np.asarray(action, np.float32)
        shape = (self.num_envs, self.action_dim)
        if found.shape != shape:
            raise ValueError(f"actions must have shape {shape}, got {found.shape}")
        if not np.isfinite(found).all():
            which = int(np.argwhere(~np.isfinite(found))[0, 0])
            raise NonFiniteError(
                f"the action for environment {which} of {self.facts.name} is not "
                f"finite: {found[which].tolist()}"
            )
        return np.clip(found, -1.0, 1.0)

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # answers still under way would be taken for others
            self.close()
            raise


class _Local:
    """All environments in this process."""

    def __init__(self, make: Make, count: int) -> None:
        self._block = Block(make, count)
        self.begin = self._block.begin
        self.step = self._block.step
        self.close = self._block.close


class _Remote:
    """Environments in worker processes, each with a block of neighbours."""

    def __init__(self, make: Make, count: int, workers: int, name: str) -> None:
        self._name = name
        self._bounds = np.linspace(0, count, workers + 1).astype(int)
        self._workers: list[_Worker] = []
        # Also at the interpreter's end, and when the vector is garbage.
        self.close = weakref.finalize(self, _shut_down, self._workers)
        try:
            for first, last in self._slices():
                self._workers.append(_Worker(make, last - first))
            self._answers()
        except BaseException:
            self.close()
            raise

    def begin(self, seeds: Seeds, steps: Any, past: Any) -> Floats:
        """As `Block.begin`."""
        self._ask("begin", seeds, steps, past)
        obs: Floats = np.concatenate(self._answers())
        return obs

    def step(self, actions: Any, next_seeds: Seeds) -> Outcome:
        """As `Block.step`."""
        self._ask("step", actions, next_seeds)
        return Outcome(*map(np.concatenate, zip(*self._answers(), strict=True)))

    def _slices(self) -> Iterator[tuple[int, int]]:
        return zip(self._bounds[:-1].tolist(), self._bounds[1:].tolist(), strict=True)

    def _ask(self, method: str, *arguments: npt.NDArray[Any]) -> None:
        if not self._workers:
            raise SimulatorError(f"the environments of {self._name} are closed")
        for each, (first, last) in zip(self._workers, self._slices(), strict=True):
            # One that has ended says why when it is listened to.
            with contextlib.suppress(OSError):
                each.connection.send((method, *(a[first:last] for a in arguments)))

    def _answers(self) -> Sequence[Any]:
        """One of each worker, in order."""
        answers = []
        for each, (first, last) in zip(self._workers, self._slices(), strict=True):
            try:
                answer = each.connection.recv()
            except (EOFError, OSError) as error:
                raise SimulatorError(
                    f"the process of environments {first} to {last - 1} of "
                    f"{self._name} ended {each.end()}"
                ) from error
            if isinstance(answer, Failure):
                raise _error(answer, f"environments {first} to {last - 1}")
            answers.append(answer)
        return answers


class _Worker:
    """A process that steps a block of environments, and the line to it."""

    def __init__(self, make: Make, count: int) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            # Not `-m`, which would name the module's classes another way.
            command = [sys.executable, "-P", "-c", SERVE]
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        try:
            self.connection.send((make, count))
        except OSError:
            pass  # it has ended, and says so when it is listened to
        except Exception as error:  # pickle raises many kinds
            _shut_down([self])
            raise SimulatorError(
                f"what makes the environments cannot be sent to a worker ({error}): "
                "take a function or class of a module, or workers=0"
            ) from error

    def end(self) -> str:
        """How the process ended, in words."""
        try:
            code = self.process.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            return "its line, and still runs"
        if code < 0:
            return f"by signal {-code}, perhaps for lack of memory"
        return f"with code {code}; what it said is above"


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _environment() -> dict[str, str]:
    """A worker finds what this process finds, and uses one thread."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path}


def _shut_down(workers: list[_Worker]) -> None:
    for each in workers:
        each.connection.close()
    for each in workers:
        try:
            each.process.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()
    workers.clear()


def _error(failure: Failure, where: str) -> SafexError:
    """The error that a worker met, with its traceback as a note."""
    kinds = importlib.import_module("safex.errors")
    error: SafexError = getattr(kinds, failure.kind)(f"{failure.message} [{where}]")
    error.add_note(f"In the worker:\n{failure.details}")
    return error


@jax.jit
def _act(policy: Partial, key: Array, obs: Array | Floats) -> Array:
    action: Array = policy(key, obs)
    return action


def _copy(state: ProcessState) -> ProcessState:
    """Its own arrays, of the right types."""
    return ProcessState(
        stream=np.array(state.stream, np.uint32),
        episode=np.array(state.episode, np.int32),
        steps=np.array(state.steps, np.int32),
        actions=np.array(state.actions, np.float32),
    )


def _seeds(stream: Seeds, episode: npt.NDArray[np.int32]) -> Seeds:
    """`[N]` the seed of each environment's episode, well mixed."""
    pairs = zip(stream.tolist(), episode.tolist(), strict=True)
    mixed = [np.random.SeedSequence(pair).generate_state(1)[0] for pair in pairs]
    return np.array(mixed, np.uint32)
