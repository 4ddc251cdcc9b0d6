"""How much is collected, and which settings decide no number."""

import dataclasses

from safex.config.checks import require_at_least, require_positive

# Sections of an experiment that decide no number of it: where its files go and who
# watches it. So does, but for rounding, how `job` shares the machine.
NO_NUMBERS = (
    "launcher",
    "results_dir",
    "wandb",
    "tensorboard",
    "render",
    "verbose",
)
SHARES = (
    "seeds_per_process",
    "cores_per_decision",
    "num_cpus",
    "num_gpus",
    "mem",
    "time",
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How much is collected.

    Attributes:
      num_model_updates: planned episodes; the model is fitted after each.
      num_rollout_steps: steps of a planned episode.
      num_exploration_steps: random steps before the first fit.
      buffer_size: most transitions kept; must hold the whole run.
      val_buffer_size: transitions far from the data on which out-of-distribution
        coverage is measured; the model never sees them.
    """

    num_model_updates: int = 8
    num_rollout_steps: int = 200
    num_exploration_steps: int = 100
    buffer_size: int = 30000
    val_buffer_size: int = 500

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(
                    f"{field.name} must be >= 1, got {getattr(self, field.name)}"
                )
        if self.num_exploration_steps < 50:
            raise ValueError(
                "num_exploration_steps must be >= 50, so that every part of the first "
                f"train, calibrate and test split has data; got "
                f"{self.num_exploration_steps}"
            )
        if self.capacity > self.buffer_size:
            raise ValueError(
                f"buffer_size must hold the whole run of {self.capacity} transitions, "
                f"got {self.buffer_size}"
            )

    @property
    def last_checkpoint(self) -> int:
        """Number of the checkpoint that a finished run has: its last episode."""
        return self.num_model_updates

    @property
    def capacity(self) -> int:
        """Transitions of the whole run."""
        planned = self.num_model_updates * self.num_rollout_steps
        return self.num_exploration_steps + planned


@dataclasses.dataclass(frozen=True)
class OffPolicyTrainConfig:
    """How an off-policy agent collects, learns and is evaluated: round after round.

    A round takes `steps_per_round` steps in each of `num_envs` environments and then
    learns. Rounds are whole: a run takes `total_steps` rounded up to its rounds.

    Attributes:
      total_steps: environment steps of all environments, the random ones included.
      num_envs: N, environments that step together.
      steps_per_round: steps of each environment between two calls of the agent's
        update; None is a whole episode.
      random_steps: the first steps of all environments, with uniform actions; nothing
        is learned before they are over. Rounded up to whole rounds.
      updates_per_step: gradient updates for each environment step of a round, at least
        one a round.
      replay_capacity: most transitions kept, of all environments; never fewer than a
        round's.
      eval_every: rounds between evaluations by the deterministic policy; the last round
        always ends with one.
      eval_episodes: episodes of an evaluation; nothing is learned from them, and they
        count in no cost of training.
      checkpoint_every: rounds between checkpoints; None is every round, or less often
        where the replay makes them large: once in as many rounds as the state has
        pieces of 200 MB. The last round always ends with one.
      keep_episodes: newest episodes of training, and of the last evaluation, that are
        kept step by step, for figures and videos.
    """

    total_steps: int = 100_000
    num_envs: int = 8
    steps_per_round: int | None = None
    random_steps: int = 4_000
    updates_per_step: float = 0.2
    replay_capacity: int = 200_000
    eval_every: int = 10
    eval_episodes: int = 10
    checkpoint_every: int | None = None
    keep_episodes: int = 5

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        counts = ("total_steps", "num_envs", "eval_every", "eval_episodes")
        require_at_least(1, self, (*counts, "keep_episodes"))
        require_at_least(0, self, ("random_steps",))
        require_positive(self, ("updates_per_step",))
        for name in ("steps_per_round", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1 or null, got {value}")
        if self.random_steps >= self.total_steps:
            raise ValueError(
                f"random_steps must be below total_steps {self.total_steps}, or "
                f"nothing is learned; got {self.random_steps}"
            )
        if self.replay_capacity < self.num_envs:
            raise ValueError(
                f"replay_capacity must hold a step of each of the {self.num_envs} "
                f"environments, got {self.replay_capacity}"
            )

    def rounds(self, max_steps: int) -> tuple[int, int]:
        """Environment steps of a round, and how many rounds there are.

        Args:
          max_steps: length of an episode [steps].

        Raises:
          ValueError: the random phase, in whole rounds, leaves none to learn in.
        """
        steps = (self.steps_per_round or max_steps) * self.num_envs
        number = -(-self.total_steps // steps)
        if -(-self.random_steps // steps) >= number:
            raise ValueError(
                f"random_steps {self.random_steps} are all of the {number} rounds of "
                f"{steps} steps that total_steps {self.total_steps} make, and nothing "
                "is learned: take fewer, more total_steps, or fewer steps_per_round"
            )
        return steps, number

    @property
    def last_checkpoint(self) -> int:
        """Least number of the checkpoint that a finished run has: its steps."""
        return self.total_steps
