"""What every launcher does: read the command line, refuse mistakes, run."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from experiments.configuration import read_config
from experiments.overrides import read_command_line
from safex.errors import SafexError, UnfinishedError

CONFIG_DIR = Path(__file__).resolve().parent / "config"


def launch(task: str) -> None:
    """Runs the command line of `launcher_<task>.py`; a mistake is one line, code 2.

    Seeds that failed are a line each, code 1.
    """
    name = f"launcher_{task}"
    # `--help` alone names no key.
    if sys.argv[1:] != ["--help"]:
        try:
            sys.argv[1:], notes = read_command_line(CONFIG_DIR, name, sys.argv[1:])
        except SafexError as error:
            print(f"safex: {error}", file=sys.stderr)
            sys.exit(2)
        for note in notes:
            print(f"safex: {note}", file=sys.stderr)
    hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=name)(
        _main
    )()


def _main(node: DictConfig) -> None:
    try:
        config = read_config(node)
        # JAX takes seconds to import; `--help` and a refused key do not wait for it.
        from experiments.running import run_job  # noqa: PLC0415

        run_job(config)
    except SafexError as error:
        print(f"safex: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, UnfinishedError) else 2)
    except OSError as error:
        from experiments.running import say_why  # noqa: PLC0415

        sys.exit(say_why(error))
    except KeyboardInterrupt:
        print(
            "safex: stopped; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        sys.exit(130)
