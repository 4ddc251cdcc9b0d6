"""Settings of the launchers; they decide where a job runs and none of its numbers."""

import dataclasses

from safex.config import require_at_least

CLUSTERS = ("slurm", "local")


@dataclasses.dataclass(frozen=True)
class RayConfig:
    """Ray.

    Attributes:
      address: of a running cluster, as `ray.init` takes it (`auto`, `ray://host:10001`);
        None starts one of this machine's cores and ends it with the job. The nodes of
        a cluster must see the results folder and this project under the same paths.
    """

    address: str | None = None


@dataclasses.dataclass(frozen=True)
class SlurmConfig:
    """SLURM, by way of submitit.

    Attributes:
      dry_run: write the batch scripts and show them, submit nothing.
      wait: stay until all is through, with progress, and report. Without, the command
        ends when all is submitted, and a job that depends on the others reports.
      cluster: `slurm`, or `local` for processes of this machine in its place.
      max_parallel: units that run at the same time, at most.
      max_requeues: times that a unit which reached `job.time` is queued again, to go on
        from its last episode.
      partition: None is the cluster's default; so for the next three.
      account: whose hours are spent.
      qos: quality of service.
      constraint: features that a node must have.
      setup: shell lines to run first, such as `module load cuda`.
    """

    dry_run: bool = False
    wait: bool = False
    cluster: str = "slurm"
    max_parallel: int = 256
    max_requeues: int = 3
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses an unknown cluster, and one that nobody would wait for."""
        require_at_least(1, self, ("max_parallel",))
        require_at_least(0, self, ("max_requeues",))
        if self.cluster not in CLUSTERS:
            raise ValueError(f"cluster must be one of {CLUSTERS}, got {self.cluster!r}")
        if self.cluster == "local" and not (self.wait or self.dry_run):
            raise ValueError(
                "cluster 'local' needs launcher.wait=true: it knows no job that "
                "depends on others, which could report"
            )
