"""The launchers of the safety suites; all but the last need no suite."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments.configuration import read_config
from safex.envs.suites import bullet

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
CONFIG_DIR = EXPERIMENTS / "config"
TASKS = sorted(path.stem for path in (CONFIG_DIR / "task").glob("Safety*.yaml"))


def launcher_of(task):
    return "launcher_bullet" if task in bullet.IDS else "launcher_safety_gymnasium"


def test_tasks_are_those_that_are_promised():
    navigation = {
        f"Safety{robot}{task}{level}-v0"
        for robot in ("Point", "Car")
        for task in ("Goal", "Button", "Push", "Circle")
        for level in range(3)
    }
    runners = ("HalfCheetah", "Hopper", "Swimmer", "Walker2d", "Ant", "Humanoid")
    velocity = {f"Safety{robot}Velocity-v1" for robot in runners}
    assert set(TASKS) == navigation | velocity | set(bullet.IDS)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_composes(task):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        node = compose(launcher_of(task), overrides=[f"task={task}"])
    config = read_config(node)
    assert config.env.settings.id == config.task == task
    assert config.env.kind == (
        "BulletSafetyGym" if task in bullet.IDS else "SafetyGymnasium"
    )
    assert config.agent.kind == "CVPO"
    assert config.wandb.group_name == f"{task}_cvpo_model_free"


@pytest.mark.skipif(
    importlib.util.find_spec("safety_gymnasium") is not None,
    reason="safety_gymnasium is installed, and is not missed",
)
def test_a_missing_suite_is_one_line_with_its_install_command():
    command = [sys.executable, EXPERIMENTS / "launcher_safety_gymnasium.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "Safety-Gymnasium needs safety_gymnasium, which is not installed" in line
    assert "make install-suites" in line
