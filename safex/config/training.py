"""How much is collected, and which settings decide no number."""

import dataclasses

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
    def capacity(self) -> int:
        """Transitions of the whole run."""
        planned = self.num_model_updates * self.num_rollout_steps
        return self.num_exploration_steps + planned
