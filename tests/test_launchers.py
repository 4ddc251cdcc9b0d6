"""The same small job by every launcher, with what goes wrong on the way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import resume, running
from experiments.training import describe
from safex.errors import UnfinishedError
from safex.training.loop import Trainer
from tests import test_model_free
from tests.test_configuration import read
from tests.test_evaluate import TINY

ROOT = Path(__file__).resolve().parents[1]
FRAGILE = """
import os
import signal
import sys
from pathlib import Path

from safex.envs.pendulum import Pendulum


class Fragile(Pendulum):
    # Breaks while a program is made of it, in whichever worker comes first.

    def step(self, key, state, action):
        if Path(sys.argv[0]).name in ("work.py", "_submit.py"):
            self.wear()
        return super().step(key, state, action)

    def wear(self):
        path = Path(os.environ["FRAGILE"])
        try:
            how = path.read_text()
            path.rename(path.with_suffix(".gone"))
        except OSError:
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("the bearing is worn out")
"""
JOB = (*TINY, "env.kind=fragile_system:Fragile", "render=false")


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """Where the fragile system is, and the file that breaks it."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "fragile_system.py").write_text(FRAGILE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    patch.setenv("FRAGILE", str(folder / "break"))
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    patch.setattr(running, "set_up_jax", lambda *arguments: None)
    # Here as in the processes that are started, nothing is compiled twice or drawn.
    patch.setattr(running.report, "write_figures", lambda *arguments: [])
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(folder / "cache"), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    patch.undo()


@pytest.fixture(autouse=True)
def whole_again(place):
    yield
    for name in ("break", "break.gone"):
        (place / name).unlink(missing_ok=True)


def run(folder, *more):
    return running.run_job(read(*JOB, f"results_dir={folder}", *more))


@pytest.fixture(scope="module")
def local(tmp_path_factory, place):
    return run(tmp_path_factory.mktemp("local") / "job")


def seeds_of(folder):
    return json.loads((folder / "summary.json").read_text())["seeds"]


def wear_out(monkeypatch, after=0):
    """Something fails once, and does not say for which seed."""
    original, calls = Trainer._collect, []

    def collect(*arguments):
        calls.append(None)
        if len(calls) == after + 1:
            raise OSError("the bearing is worn out")
        return original(*arguments)

    monkeypatch.setattr(Trainer, "_collect", collect)


def test_seeds_in_lockstep_outlive_an_exception(local, tmp_path, capsys, monkeypatch):
    wear_out(monkeypatch, after=1)
    folder = run(tmp_path / "job")
    assert "the 2 seeds that went in lockstep go on one by one" in " ".join(
        capsys.readouterr().out.split()
    )
    assert seeds_of(folder) == seeds_of(local)


def test_a_seed_that_fails_alone_is_reported_and_no_other_ends(
    local, tmp_path, capsys, monkeypatch
):
    wear_out(monkeypatch)
    with pytest.raises(UnfinishedError) as caught:
        run(tmp_path / "job", "job.seeds_per_process=1")
    first, second = str(caught.value).splitlines()
    assert first.startswith("1 of 2 seeds are not finished")
    assert "resume.py" in first
    assert "seed_0: OSError: the bearing is worn out" in second
    assert "Traceback" in (tmp_path / "job" / "seed_0" / "error.txt").read_text()
    assert not (tmp_path / "job" / "summary.json").exists()
    capsys.readouterr()
    assert resume.main([str(tmp_path / "job")]) == 0
    out = capsys.readouterr().out
    assert "seed_0: from episode 0 on" in out
    # The other is not run again.
    assert "seed 2/2" not in out
    assert not (tmp_path / "job" / "seed_0" / "error.txt").exists()
    assert seeds_of(tmp_path / "job") == seeds_of(local)


def test_a_point_that_is_complete_is_reported_beside_one_that_is_not(
    place, tmp_path, monkeypatch
):
    wear_out(monkeypatch)
    grid = "job.grid={horizon:[3,4]}"
    with pytest.raises(UnfinishedError, match="1 of 2 seeds"):
        run(tmp_path / "job", grid, "job.num_seeds_per_hparam=1")
    assert not (tmp_path / "job" / "horizon=3" / "summary.json").exists()
    assert (tmp_path / "job" / "horizon=4" / "summary.json").exists()
    assert not (tmp_path / "job" / "grid.json").exists()


def test_an_exception_from_within_a_program_is_said_by_its_last_line():
    text = "INTERNAL: CpuCallback error: Traceback (most recent call last):\n  File x\n"
    error = RuntimeError(f"{text}OSError: worn out\n")
    assert describe(error) == "RuntimeError: OSError: worn out"
    assert describe(ValueError("one\ntwo")) == "ValueError: one"
    assert describe(KeyError()) == "KeyError"


def test_local_parallel_outlives_a_process_that_is_killed(
    local, place, tmp_path, capsys
):
    (place / "break").write_text("kill")
    with pytest.raises(UnfinishedError) as caught:
        run(tmp_path / "job", "launcher=local_parallel")
    first, second = str(caught.value).splitlines()
    assert first.startswith("1 of 2 seeds are not finished")
    assert f"was ended by {signal.SIGKILL.name}" in second
    assert "unit_00" in second
    out = capsys.readouterr().out
    for words in ("unit 1/2: seeds 1/2 start", "unit 2/2: seeds 2/2 start", ": ended"):
        assert words in out
    assert resume.main([str(tmp_path / "job"), "--launcher", "local"]) == 0
    assert seeds_of(tmp_path / "job") == seeds_of(local)


@pytest.fixture
def command(tmp_path):
    """Runs the command line: Ray and submitit do not go with pytest in a process."""

    def launch(*more, job=JOB):
        script = ROOT / "experiments" / "launcher_pendulum.py"
        return subprocess.run(
            [sys.executable, str(script), *job, *more],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    return launch


@pytest.mark.ray
def test_a_ray_cluster_of_its_own_runs_the_job(local, place, tmp_path, command):
    (place / "break").write_text("raise")
    result = command("launcher=ray", "results_dir=job")
    assert result.returncode == 1, result.stderr
    assert "1 of 2 seeds are not finished" in result.stderr
    assert "the bearing is worn out" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr
    result = command("launcher=ray", "results_dir=job")
    assert result.returncode == 0, result.stderr
    assert seeds_of(tmp_path / "job") == seeds_of(local)


def test_submitit_runs_the_job_on_this_machine(local, tmp_path, command):
    slurm = ("launcher=slurm", "launcher.cluster=local", "launcher.wait=true")
    result = command(*slurm, "results_dir=job")
    assert result.returncode == 0, result.stderr
    assert "unit 1/2: seeds 1/2 start" in result.stdout
    assert "submitit" not in result.stdout
    assert seeds_of(tmp_path / "job") == seeds_of(local)
    # One that is queued again starts without its launch, on files that damage changed.
    metrics = tmp_path / "job" / "seed_1" / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text(before.replace("train/episode/return", "train/episode/retusn"))
    code = "from experiments.engines.slurm_task import UnitTask; UnitTask()('job', 1)"
    again = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    said = "seed_1: not all of it is whole; from episode 0 on"
    assert said in " ".join(again.stdout.split())
    assert metrics.read_text() == before


@pytest.fixture(scope="module")
def local_model_free(tmp_path_factory, place):
    folder = tmp_path_factory.mktemp("model_free") / "job"
    return running.run_job(test_model_free.config_in(folder, "render=false"))


@pytest.mark.parametrize(
    "launcher", [pytest.param("ray", marks=pytest.mark.ray), "slurm"]
)
def test_an_agent_without_a_model_goes_by_any_launcher(
    local_model_free, tmp_path, command, launcher
):
    here = ("launcher.cluster=local", "launcher.wait=true") * (launcher == "slurm")
    job = (*test_model_free.TINY, "render=false", f"launcher={launcher}", *here)
    result = command("results_dir=job", job=job)
    assert result.returncode == 0, result.stderr
    assert "unit 2/2: seeds 2/2 start" in result.stdout
    assert seeds_of(tmp_path / "job") == seeds_of(local_model_free)


@pytest.mark.slurm
def test_slurm_runs_the_job(local, tmp_path, command):
    result = command("launcher=slurm", "launcher.wait=true", "results_dir=job")
    assert result.returncode == 0, result.stderr
    assert seeds_of(tmp_path / "job") == seeds_of(local)


def until(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.slurm
def test_slurm_reports_when_nobody_waits(local, place, tmp_path, command):
    (place / "break").write_text("kill")
    job = tmp_path / "job"
    result = command("launcher=slurm", "results_dir=job", "job.mem=2", "job.time=10")
    assert result.returncode == 0, result.stderr
    # Which goes when it has been reported on.
    until(lambda: not (job / "slurm" / "submitted").exists())
    report = max((job / "slurm").glob("*.err"), key=lambda path: path.stat().st_mtime)
    until(lambda: "1 of 2 seeds are not finished" in report.read_text())
    until(queue_is_empty)
    result = command("launcher=slurm", "results_dir=job", "launcher.wait=true")
    assert result.returncode == 0, result.stderr
    assert seeds_of(job) == seeds_of(local)


def queue_is_empty():
    return not subprocess.check_output(["squeue", "--noheader"])


@pytest.fixture
def closed_node():
    """The node takes nothing new, so that jobs stay in the queue."""
    update = ["scontrol", "update", f"NodeName={socket.gethostname().split('.')[0]}"]
    subprocess.run([*update, "State=DRAIN", "Reason=test"], check=True)
    yield
    subprocess.run([*update, "State=RESUME"], check=True)


@pytest.mark.slurm
def test_what_slurm_has_queued_is_not_run_twice(local, tmp_path, command, closed_node):
    assert command("launcher=slurm", "results_dir=job").returncode == 0
    for launcher in ("local", "slurm"):
        result = command(f"launcher={launcher}", "results_dir=job")
        assert result.returncode == 2
        assert "SLURM has jobs" in result.stderr
    name = (tmp_path / "job" / "slurm" / "submitted").read_text().strip()
    subprocess.run(["scancel", "--name", name], check=True)
    until(queue_is_empty)
    result = command("results_dir=job")
    assert result.returncode == 0, result.stderr
    assert seeds_of(tmp_path / "job") == seeds_of(local)
