"""Safe exploration of the remote-controlled car.

python experiments/launcher_rc_car.py method=minmax model=bnn

method is a file in experiments/config/method, model one in experiments/config/model.
Any field of the YAML files in experiments/config can be overridden by its full name,
and `preset=debug` runs the whole thing, small, in a minute or two.
"""

import sys
from pathlib import Path

# The folder above is the project; a script's own folder is all that Python adds.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.launching import launch

if __name__ == "__main__":
    launch("rc_car")
