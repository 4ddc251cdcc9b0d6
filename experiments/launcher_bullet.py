"""Safe reinforcement learning without a model on tasks of Bullet-Safety-Gym.

python experiments/launcher_bullet.py task=SafetyCarRun-v0 method=cvpo cost_budget=25

It needs `make install-suites`. task is a file in experiments/config/task whose name
begins with Safety, method one in experiments/config/method that is for agents without a
model. Any field of the YAML files in experiments/config can be overridden by its full
name, and `preset=debug` runs the whole thing, small, in a minute or two.
"""

import sys
from pathlib import Path

# The folder above is the project; a script's own folder is all that Python adds.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.launching import launch

if __name__ == "__main__":
    launch("bullet")
