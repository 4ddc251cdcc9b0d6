"""Devices, the persistent compilation cache, and what must not wait for JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runtime import cache_folder

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import jax, jax.numpy as jnp
from experiments.runtime import set_up_jax
set_up_jax()
def loop(x):
    return jax.lax.scan(lambda c, _: (jnp.sort(jnp.sin(c @ c)), None), x, None, 9)[0]
print(jax.config.jax_compilation_cache_dir)
print(jax.jit(loop)(jax.random.normal(jax.random.key(0), (9, 9))).sum())
"""


def python(code, **variables):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("JAX_")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=environment | {key: str(value) for key, value in variables.items()},
    )


def test_the_cache_is_on_and_damage_to_it_changes_nothing(tmp_path):
    every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0}
    first = python(PROGRAM, XDG_CACHE_HOME=tmp_path, **every)
    folder, number = first.stdout.split()
    assert Path(folder).is_relative_to(tmp_path / "safex")
    entries = list(Path(folder).glob("*-cache"))
    assert entries
    again = python(PROGRAM, XDG_CACHE_HOME=tmp_path, **every)
    assert again.stdout.split() == [folder, number]
    # Everything was found: nothing was written beside it.
    assert set(Path(folder).glob("*-cache")) == set(entries)
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:50])
    damaged = python(PROGRAM, XDG_CACHE_HOME=tmp_path, **every)
    assert damaged.stdout.split() == [folder, number], damaged.stderr


def test_the_user_can_name_another_folder_or_none(tmp_path):
    named = python(PROGRAM, JAX_COMPILATION_CACHE_DIR=tmp_path / "mine")
    assert named.stdout.split()[0] == str(tmp_path / "mine")
    # A file stands where the folder should be.
    (tmp_path / "file").write_text("")
    nowhere = python(PROGRAM, XDG_CACHE_HOME=tmp_path / "file")
    assert nowhere.stdout.split()[0] == "None", nowhere.stderr


def test_the_folder_is_the_processors(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = cache_folder()
    monkeypatch.setattr("experiments.runtime._processor", lambda: "another")
    assert cache_folder() != one
    assert cache_folder().parent == one.parent == tmp_path / "safex"


@pytest.mark.parametrize(
    "module",
    ["safex", "safex.config", "experiments.configuration", "experiments.overrides"],
)
def test_a_configuration_is_read_without_jax(module):
    code = f"import sys, {module}; print('jax' in sys.modules, 'numpy' in sys.modules)"
    assert python(code).stdout.split() == ["False", "False"]


def test_a_refused_configuration_does_not_wait_for_jax(tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    script = str(ROOT / "experiments" / "launcher_pendulum.py")
    for argument, word in (
        ("optimizer.num_elites_x=99", "num_elites_x must not exceed"),
        ("--help", "pendulum_job"),
    ):
        result = subprocess.run(
            [sys.executable, script, argument],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        )
        output = result.stdout + result.stderr
        assert "jax was imported" not in output
        assert word in output
