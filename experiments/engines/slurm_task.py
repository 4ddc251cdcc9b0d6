"""What submitit runs: a unit, and the report on a job.

It pickles these by name, and nothing with them but a folder and a number.
"""

from typing import Any


class UnitTask:
    """Trains a unit of a folder's launch."""

    def __call__(self, folder: str, unit: int) -> None:
        """Runs in a process of SLURM's; a code other than 0 is its failure."""
        from experiments.work import main  # noqa: PLC0415 - JAX, where it is needed

        if main([folder, str(unit)]) != 0:
            raise RuntimeError(f"unit {unit} failed; see above")

    def checkpoint(self, folder: str, unit: int) -> Any:
        """Near its time limit: it goes on from its last episode when it runs again."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415

        return DelayedSubmission(self, folder, unit)


class ReportTask:
    """Reports on a folder's launch when its units are through."""

    def __call__(self, folder: str) -> None:
        """Runs in a process of SLURM's; a code other than 0 is its failure."""
        from experiments.work import main  # noqa: PLC0415 - as above

        if main([folder, "--report"]) != 0:
            raise RuntimeError("not all seeds are finished; see above")
