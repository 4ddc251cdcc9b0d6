"""Fits a model to recorded or fresh episodes and tells how far its stds can be trusted.

    python experiments/calibrate.py DIR                  # episodes of a run
    python experiments/calibrate.py DIR --model gp       # the same of another model
    python experiments/calibrate.py --task cartpole env.process_noise_std=0.1

DIR holds `config.yaml` and `seed_*/episodes/*.npz`, as a launcher leaves them; without
it random episodes are collected. What follows as `key=value` sets fields by their full
names, as for a launcher. The run is replayed: after each episode the model is
fitted to all so far and asked about rows it was not given, about the next episode, and
about states far from the data. Prints a table, draws `calibration.png`, and writes
every number to `calibration.json`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.configuration import (
    ExperimentConfig,
    plain_of,
    read_config,
    read_mapping,
    require_planning,
)
from experiments.launching import CONFIG_DIR
from experiments.overrides import read_command_line
from experiments.runs import exit_code, read_plain, with_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after a one-line error, 130 if stopped."""
    arguments = _parse(argv)
    return exit_code(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    config = read_settings(arguments)
    # JAX takes seconds to import; a mistake that was seen above did not wait.
    from experiments.calibrating import calibrate  # noqa: PLC0415

    calibrate(
        config,
        arguments.run,
        arguments.out or arguments.run or Path("results/calibration"),
        fresh=(arguments.seeds, arguments.episodes),
        imagine=not arguments.no_imagination,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    models = sorted(path.stem for path in (CONFIG_DIR / "model").glob("*.yaml"))
    tasks = sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml"))
    parser = argparse.ArgumentParser(
        prog="calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="?", help="folder of a run")
    parser.add_argument("set", nargs="*", metavar="key=value", help="fields to set")
    parser.add_argument(
        "--task",
        choices=tasks,
        default="pendulum",
        metavar="TASK",
        help="a file in experiments/config/task, default: pendulum",
    )
    parser.add_argument("--model", choices=models, help="default: the run's, or bnn")
    parser.add_argument("--seeds", type=int, default=3, help="of fresh data")
    parser.add_argument("--episodes", type=int, default=5, help="of fresh data")
    parser.add_argument(
        "--no-imagination", action="store_true", help="leave out the 10-step rollouts"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="default: DIR, or results/calibration",
    )
    arguments = parser.parse_intermixed_args(argv)
    # A first `key=value` is no folder.
    if arguments.run and "=" in arguments.run and not Path(arguments.run).exists():
        arguments.set.insert(0, arguments.run)
        arguments.run = None
    arguments.run = Path(arguments.run) if arguments.run else None
    return arguments


def read_settings(arguments: argparse.Namespace) -> ExperimentConfig:
    """The configuration of the run, or of the task, with what the command line sets.

    Raises:
      ConfigError: names what is wrong and what would be right.
    """
    if arguments.run is None:
        name = f"launcher_{arguments.task}"
        overrides = [f"model={arguments.model or 'bnn'}", *arguments.set]
        overrides, notes = read_command_line(CONFIG_DIR, name, overrides)
        for note in notes:
            print(f"safex: {note}", file=sys.stderr)
        # Only fresh episodes need it; those of a run do not wait for its import.
        from hydra import compose, initialize_config_dir  # noqa: PLC0415

        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = read_config(compose(name, overrides=overrides))
        return require_planning(config, "calibrate")
    plain = read_plain(arguments.run)
    if arguments.model:
        chosen = (CONFIG_DIR / "model" / f"{arguments.model}.yaml").read_text()
        # All of its fields, whether they stand in that file or not.
        plain = plain_of(read_mapping(plain | yaml.safe_load(chosen)))
    return require_planning(with_settings(plain, arguments.set), "calibrate")


if __name__ == "__main__":
    sys.exit(main())
