"""Safe exploration of the pendulum.

python experiments/launcher_pendulum.py method=minmax model=bnn

method is one of unsafe, safe, pestraj, minmax, optminmax; model is true or bnn. Any
field of the YAML files in experiments/config can be overridden by its full name, and
`preset=debug` runs the whole thing in about 40 s.
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

# The folder above is the project; a script's own folder is all that Python adds.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.configuration import read_config
from experiments.overrides import check_overrides, quote_choices
from safex.errors import ConfigError

CONFIG_DIR = Path(__file__).resolve().parent / "config"
CONFIG_NAME = "launcher_pendulum"


@hydra.main(version_base="1.3", config_path="config", config_name=CONFIG_NAME)
def main(config: DictConfig) -> None:
    """Runs one configuration."""
    try:
        experiment = read_config(config)
    except ConfigError as error:
        print(f"safex: {error}", file=sys.stderr)
        sys.exit(2)
    # JAX takes seconds to import; `--help` and a refused key should not wait for it.
    from experiments.pendulum import run  # noqa: PLC0415

    sys.exit(run(experiment))


if __name__ == "__main__":
    # `--help` alone names no key.
    if sys.argv[1:] != ["--help"]:
        problem = check_overrides(CONFIG_DIR, CONFIG_NAME, sys.argv[1:])
        if problem:
            sys.exit(f"safex: {problem}")
    sys.argv[1:] = quote_choices(sys.argv[1:])
    main()
