"""What the commands that come after a run have in common: mistakes and Ctrl-C."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments import calibrate, calibrating, evaluate, evaluating, resume
from experiments.configuration import plain_of
from tests.test_configuration import read

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import importlib, sys
command, *arguments = sys.argv[1:]
code = importlib.import_module(f"experiments.{command}").main(arguments)
sys.exit(99 if "jax" in sys.modules else code)
"""


@pytest.fixture
def run(tmp_path):
    """A folder that looks like one of a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(plain_of(read())))
    return folder


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("evaluate", ["{empty}"], "is no folder of a run"),
        ("evaluate", ["{run}", "env.masss=1"], "did you mean env.mass?"),
        ("calibrate", ["{empty}"], "is no folder of a run"),
        ("calibrate", ["{run}", "env.masss=1"], "did you mean env.mass?"),
        ("calibrate", ["env.masss=1"], "did you mean env.mass"),
        ("resume", ["{empty}"], "holds no job"),
        ("compare", ["{empty}"], "holds no finished run"),
        ("plot", ["{empty}"], "holds no finished run"),
        ("report", ["{empty}"], "holds no finished run"),
        ("watch", ["{empty}"], "holds no job"),
    ],
)
def test_a_mistake_is_refused_before_jax_is_imported(
    run, tmp_path, command, arguments, words
):
    (tmp_path / "empty").mkdir()
    given = [text.format(run=run, empty=tmp_path / "empty") for text in arguments]
    done = subprocess.run(
        [sys.executable, "-c", CODE, command, *given],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("safex: ")
    assert words in line


@pytest.mark.parametrize(
    ("command", "module", "name"),
    [
        (evaluate, evaluating, "evaluate"),
        (calibrate, calibrating, "calibrate"),
        (resume, resume, "_resume"),
    ],
)
def test_ctrl_c_is_a_line(run, capsys, monkeypatch, command, module, name):
    def stop(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, stop)
    assert command.main([str(run)]) == 130
    assert capsys.readouterr().err.startswith("safex: stopped; ")
