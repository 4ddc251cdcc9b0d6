"""How units are made and handed over; real engines run in test_launchers."""

import fcntl
import os
import subprocess
import sys
import threading
import time
import types

import pytest

from experiments import folders
from experiments.configuration import JobConfig, fingerprint
from experiments.engines import processes, ray_cluster, slurm
from experiments.engines.attend import attend
from experiments.engines.engine import make_engine
from experiments.engines.follow import follow, sizes_of
from experiments.engines.queue import forget_queue_name, new_queue_name, queued_jobs
from experiments.engines.settings import SlurmConfig
from experiments.folders import (
    lock_job,
    lock_seeds,
    open_results_dir,
    write_config,
)
from experiments.jobs import Job, Unit, read_launch, write_launch
from experiments.locks import LOCK, lock_holder
from experiments.runs import read_plain
from safex.errors import ConfigError, ResultsError
from safex.training.checkpoint import write_state
from tests.test_configuration import read


def python(code):
    return [sys.executable, "-c", code]


def test_units_are_seeds_of_one_program():
    grid = "job.grid={env.mass:[1,2],horizon:[3,4]}"
    job = Job.of(read("method=safe", grid, "job.num_seeds_per_hparam=3"))
    masses = [point.config.env.settings.mass for point in job.points]
    assert masses == [1, 1, 2, 2]
    # Both masses go through one program, each horizon has its own.
    units = job.units(4)
    assert [unit.program for unit in units] == [0, 0, 1, 1]
    assert units[0].runs == ((0, 0), (0, 1), (0, 2), (2, 0))
    assert units[1].runs == ((2, 1), (2, 2))
    assert [len(unit.runs) for unit in job.units(None)] == [6, 6]
    assert len(job.units(1)) == 12


def test_what_is_through_is_not_handed_out_again(tmp_path):
    job = Job.of(read("method=safe", "job.num_seeds_per_hparam=2"))
    for seed, episode in ((0, 8), (1, 7)):
        path = tmp_path / f"seed_{seed}" / "checkpoints" / f"episode_000{episode}.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
    assert job.left_of(tmp_path, job.units(1)) == [Unit(0, ((0, 1),))]


def test_a_launch_is_read_back(tmp_path):
    config = read("method=safe", "launcher=ray", "job.num_cpus=2")
    units = [Unit(0, ((0, 1),)), Unit(0, ((0, 0),))]
    write_launch(tmp_path, config, units)
    job, found = read_launch(tmp_path)
    assert found == units
    assert job.config.launcher == config.launcher
    assert job.config.results_dir == str(tmp_path)
    (tmp_path / "launch.json").write_text("{")
    with pytest.raises(ResultsError, match="no readable launch"):
        read_launch(tmp_path)


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("print('fine')", ""),
        ("import sys; sys.exit(3)", "ended with code 3"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("import time; time.sleep(60)", "was stopped after 0.02 minutes, its job.time"),
    ],
)
def test_it_is_told_how_a_process_ended(tmp_path, code, end):
    log = tmp_path / "logs" / "unit.log"
    assert attend(python(code), {}, str(log), 1.2) == end
    assert log.read_text() == ("fine\n" if "fine" in code else "")
    assert (log.parent / "unit.err").exists()


def test_a_process_ends_with_who_attends_it(tmp_path):
    """The one that attends is killed; nobody tells the other."""
    log = tmp_path / "unit.log"
    worker = (
        "import os, threading, time; from experiments import work; "
        "print(os.getpid(), flush=True); "
        "threading.Thread(target=work._end_with_launch).start(); time.sleep(60)"
    )
    outer = (
        "from experiments.engines.attend import attend; "
        f"attend({python(worker)!r}, {{}}, {str(log)!r}, 60)"
    )
    with subprocess.Popen(python(outer)) as process:
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        pid = int(log.read_text())
        time.sleep(0.3)
        assert alive(pid)
        process.kill()
    until(lambda: not alive(pid))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split()[2] != "Z"


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_units_are_followed_to_the_end(tmp_path):
    class Scripted:
        rounds = 0

        def ended(self):
            self.rounds += 1
            texts = {1: ["a\n", ""], 2: ["a\nb", "submitit INFO\nc\n"]}
            for unit, text in enumerate(texts.get(self.rounds, ["a\nb\n", "c\n"])):
                self.log(unit).write_text(text)
            return [{}, {1: "was ended by SIGKILL"}, {0: "", 1: "x"}][self.rounds - 1]

        def log(self, unit):
            return tmp_path / f"{unit}.log"

    said = []
    assert follow(Scripted(), ["one", "two"], said.append) == {0: "", 1: "x"}
    assert said == [
        "one: a",
        "two: c",
        "two: was ended by SIGKILL",
        "one: b",
        "one: ended",
    ]


def test_a_log_keeps_what_an_earlier_launch_printed(tmp_path):
    log, said = tmp_path / "unit.log", []
    for text in ("one", "two"):
        before = sizes_of([log])
        end = attend(python(f"print({text!r})"), {}, str(log), 60.0)
        ended = types.SimpleNamespace(ended=lambda e=end: {0: e}, log=lambda unit: log)
        follow(ended, ["unit"], said.append, before)
    assert log.read_text() == "one\ntwo\n"
    assert said == ["unit: one", "unit: ended", "unit: two", "unit: ended"]


def shares(monkeypatch, job, cores=8, gpus=(), memory=16.0):
    monkeypatch.setattr(processes, "_cores", lambda: list(range(cores)))
    monkeypatch.setattr("experiments.engines.engine.num_cores", lambda: cores)
    monkeypatch.setattr(processes, "_gpus", lambda: list(gpus))
    monkeypatch.setattr(processes, "_memory", lambda: memory)
    return processes.make(JobConfig(**job), None)._shares()


def test_the_scarcest_decides_how_many_go_at_once(monkeypatch):
    found = shares(monkeypatch, {"num_cpus": 3})
    assert [share.cores for share in found] == [(0, 1, 2), (3, 4, 5)]
    assert [share.gpus for share in found] == [(), ()]
    assert len(shares(monkeypatch, {"mem": 5.0})) == 3
    found = shares(monkeypatch, {"num_gpus": 2}, gpus="4567")
    assert [share.gpus for share in found] == [("4", "5"), ("6", "7")]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"num_cpus": 9}, "job.num_cpus must not exceed the 8 cores"),
        ({"num_gpus": 1}, "job.num_gpus must not exceed the 0 GPUs"),
        ({"mem": 17.0}, "job.mem must not exceed the 16.0 GB"),
    ],
)
def test_a_unit_that_fits_nowhere_is_refused(monkeypatch, job, words):
    with pytest.raises(ConfigError, match=words):
        shares(monkeypatch, job)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/a/b", {"a/memory.max": "7", "a/b/memory.max": "max"}, [7]),
        ("0::/", {"memory.max": "5"}, [5]),
        ("3:cpu:/a\n4:memory:/a", {"memory/a/memory.limit_in_bytes": "9"}, [9]),
        ("0::/gone", {}, []),
    ],
)
def test_limits_of_a_container_count(tmp_path, groups, limits, expected):
    files = {"proc/self/cgroup": groups}
    files |= {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert list(processes._cgroup_limits(tmp_path)) == expected


def test_ray_refuses_what_would_wait_for_ever():
    there = {"GPU": 1.0, "memory": 4 * 1024.0**3}
    ray_cluster._check_there(JobConfig(num_gpus=1, mem=4.0), there)
    for job, words in ((JobConfig(num_gpus=2), "1 GPUs"), (JobConfig(mem=5), "4.0 GB")):
        with pytest.raises(ConfigError, match=f"must not exceed the {words} that Ray"):
            ray_cluster._check_there(job, there)


def test_ctrl_c_ends_what_runs_and_begins_nothing_more(tmp_path, monkeypatch):
    code = "import time; print('here', flush=True); time.sleep(60)"
    monkeypatch.setattr(processes, "command_of", lambda folder, unit: python(code))
    monkeypatch.setattr(processes, "_cores", lambda: [0, 1])
    monkeypatch.setattr("experiments.engines.engine.num_cores", lambda: 2)
    engine = processes.make(JobConfig(), None)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), engine.start(tmp_path, 3) as running:
        for unit in (0, 1):
            log = running.log(unit)
            until(lambda log=log: log.exists() and log.read_text())
        raise KeyboardInterrupt
    assert time.monotonic() - began < 40
    assert not running.log(2).exists()
    assert running.ended()[0] == "was ended by SIGTERM"


def test_a_unit_that_cannot_be_started_ends_no_other(tmp_path, monkeypatch):
    def command(folder, unit):
        return python("print('fine')") if unit else [str(tmp_path / "none")]

    monkeypatch.setattr(processes, "command_of", command)
    with processes.make(JobConfig(), None).start(tmp_path, 2) as running:
        until(lambda: len(running.ended()) == 2)
    assert running.ended()[0].startswith("could not be started: ")
    assert running.ended()[1] == ""


@pytest.mark.parametrize(
    ("package", "launcher"), [("ray", "ray"), ("submitit", "slurm")]
)
def test_a_missing_extra_is_named_with_its_command(monkeypatch, package, launcher):
    monkeypatch.setitem(sys.modules, package, None)
    engine = make_engine(read("method=safe", f"launcher={launcher}"))
    with pytest.raises(ConfigError, match=rf"pip install -e '\.\[{launcher}\]'"):
        engine.check()


def test_without_slurm_it_is_said_what_can_be_done(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"needs sbatch and srun.*dry_run=true"):
        slurm.make(JobConfig(), SlurmConfig()).check()
    slurm.make(JobConfig(), SlurmConfig(dry_run=True)).check()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["launcher=slurm", "launcher.cluster=pbs"], r"launcher\.cluster must be one"),
        (["launcher=slurm", "launcher.cluster=local"], r"launcher\.wait=true"),
        (["launcher=slurm", "launcher.max_parallel=0"], r"launcher\.max_parallel"),
        (["launcher.kind=raye"], "did you mean ray"),
        (["launcher=ray", "launcher.address=3"], r"launcher\.address must be a string"),
        (["job.num_cpus=0"], r"job\.num_cpus must be >= 1"),
        (["job.num_gpus=-1"], r"job\.num_gpus must be >= 0"),
        (["job.mem=0"], r"job\.mem must be > 0"),
        (["job.time=0"], r"job\.time must be >= 1"),
        (
            [
                "launcher=ray",
                "job.cores_per_decision=2",
                "job.seeds_per_process=1",
            ],
            r"job\.cores_per_decision must not exceed job\.num_cpus 1",
        ),
        (["job.grid={launcher.kind:[ray]}"], "the same for all points"),
    ],
)
def test_a_wrong_launcher_is_named(overrides, words):
    with pytest.raises(ConfigError, match=words):
        Job.of(read(*overrides))


def test_a_dry_run_writes_and_shows_the_scripts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    settings = SlurmConfig(
        dry_run=True, partition="gpu", max_parallel=4, setup=("module load cuda",)
    )
    job = JobConfig(num_cpus=3, num_gpus=1, mem=2.5, time=90)
    with slurm.make(job, settings).start(tmp_path, 6) as running:
        assert running is None
    units, report = (
        (tmp_path / "slurm" / f"{name}.sh").read_text() for name in ("units", "report")
    )
    for line in (
        "#SBATCH --array=0-5%4",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --mem=2560M",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=90",
        "module load cuda",
        "export JAX_NUM_CPU_DEVICES=3",
    ):
        assert line in units.splitlines()
    assert "JAX_PLATFORMS" not in units
    # What the setup lines have set stays.
    assert "${PYTHONPATH:+:$PYTHONPATH}" in units
    assert "srun" in units
    assert "#SBATCH --dependency=afterany:UNITS" in report
    assert "--array" not in report
    shown = capsys.readouterr().out
    assert units in shown
    assert report in shown
    # Nobody takes it for a job that waits.
    assert queued_jobs(tmp_path) == []


def test_what_sbatch_refuses_is_a_line(tmp_path, monkeypatch):
    fake_command(tmp_path, "srun", monkeypatch, "#!/bin/sh\n")
    text = "#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2; exit 1\n"
    fake_command(tmp_path, "sbatch", monkeypatch, text)
    engine = slurm.make(JobConfig(), SlurmConfig(partition="x"))
    engine.check()
    with (
        pytest.raises(ConfigError, match="takes no job: sbatch: error: invalid part"),
        engine.start(tmp_path, 2),
    ):
        pass


def fake_command(folder, name, monkeypatch, text):
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def test_what_slurm_has_queued_keeps_others_out(tmp_path, monkeypatch):
    job = tmp_path / "job"
    name = new_queue_name(job)
    script = f'#!/bin/sh\ncase "$*" in *{name}*) printf "%b" "$JOBS";; esac\n'
    fake_command(tmp_path, "squeue", monkeypatch, script)
    monkeypatch.setenv("JOBS", "12 PENDING\\n13 RUNNING\\n14 COMPLETING\\n")
    with lock_job(job) as holder:
        assert holder == "SLURM has jobs 12, 13 queued or running"
    # One of them looks itself, as the report does when the others are through.
    monkeypatch.setenv("JOBS", "13 RUNNING\\n")
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    with lock_job(job) as holder:
        assert holder == ""
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("JOBS", "")
    with lock_job(job) as holder:
        assert holder == ""


def test_a_unit_that_is_queued_again_has_not_ended(tmp_path, monkeypatch):
    script = '#!/bin/sh\nprintf "7_0 COMPLETING\n7_1 RUNNING\n"\n'
    fake_command(tmp_path, "squeue", monkeypatch, script)
    jobs = [types.SimpleNamespace(job_id=f"7_{unit}") for unit in range(3)]
    assert slurm._Queued("name", jobs).ended() == {2: ""}


def test_a_queue_that_cannot_be_asked_is_no_empty_one(tmp_path, monkeypatch):
    new_queue_name(tmp_path)
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(ResultsError, match="there is no squeue on this machine"),
        lock_job(tmp_path),
    ):
        pass
    fake_command(tmp_path, "squeue", monkeypatch, "#!/bin/sh\necho down >&2; exit 1\n")
    with pytest.raises(ResultsError, match="squeue: down"), lock_job(tmp_path):
        pass
    forget_queue_name(tmp_path)
    with lock_job(tmp_path) as holder:
        assert holder == ""


def test_without_results_dir_an_unfinished_run_is_gone_on_with_if_it_is_free(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = read("method=safe")
    with open_results_dir(config) as first:
        write_config(first, config)
        with open_results_dir(config) as second:
            assert second != first
    with open_results_dir(config) as again:
        assert again == first
    new_queue_name(first)
    monkeypatch.setenv("PATH", "")
    with open_results_dir(config) as other:
        assert other not in (first, second)


@pytest.mark.parametrize("grid", ["", "job.grid={agent.pes_alpha:[1,2]}"])
@pytest.mark.parametrize("damage", ["{", "", None])
def test_checkpoints_say_whose_a_folder_without_config_json_is(tmp_path, grid, damage):
    config = read("method=safe", f"results_dir={tmp_path}", *filter(None, [grid]))
    other = read("method=safe", "env.mass=2", *filter(None, [grid]))
    write_config(tmp_path, config)
    path = tmp_path / "config.json"
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    # As long as there are none, nobody knows.
    with pytest.raises(ResultsError, match="no readable config"):
        folders._check_same_run(tmp_path, config)
    for point in Job.of(config).points:
        below = tmp_path / point.name / "seed_0" / "checkpoints"
        write_state(below / "episode_0000.ckpt", {}, 0, fingerprint(point.config))
    with open_results_dir(config) as folder:
        assert folder == tmp_path
    with pytest.raises(ResultsError, match="no readable config"):
        folders._check_same_run(tmp_path, other)
    # Not if one of them is another run's, or says nothing.
    write_state(below / "episode_0001.ckpt", {}, 1, fingerprint(other))
    with pytest.raises(ResultsError, match="no readable config"):
        folders._check_same_run(tmp_path, config)
    (below / "episode_0001.ckpt").write_bytes(b"\x00" * 9)
    with pytest.raises(ResultsError, match="no readable config"):
        folders._check_same_run(tmp_path, config)


def test_launches_within_a_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.time, "strftime", lambda form: "now")
    made = [folders._new_folder(tmp_path / "runs").name for _ in range(3)]
    assert made == ["now", "now.2", "now.3"]


def test_the_configuration_is_that_of_the_newest_launch(tmp_path):
    for number, more in enumerate((["launcher.dry_run=true"], ["job.time=5"])):
        write_config(tmp_path, read("method=safe", "launcher=slurm", *more))
        plain = read_plain(tmp_path)
        assert plain["launcher"]["dry_run"] == (number == 0)
        assert plain["job"]["time"] == (1440, 5)[number]
        (tmp_path / "revision.txt").write_text("first\n")
    assert (tmp_path / "revision.txt").read_text() == "first\n"


def test_a_look_at_a_lock_keeps_no_unit_out(tmp_path):
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        # Another one that looks takes it for no work.
        assert lock_holder(tmp_path / LOCK) == (False, None)
        timer = threading.Timer(0.3, fcntl.flock, (file, fcntl.LOCK_UN))
        timer.start()
        with lock_seeds([tmp_path]):
            assert lock_holder(tmp_path / LOCK)[0]
        timer.join()


def test_a_process_that_outlived_its_launch_keeps_others_out(tmp_path):
    seed = tmp_path / "point" / "seed_1"
    with lock_seeds([seed]):
        with lock_job(tmp_path) as holder:
            assert holder == "another process is working on seed_1"
        with pytest.raises(ResultsError, match="seed_1"), lock_seeds([seed]):
            pass
    with lock_job(tmp_path) as holder:
        assert holder == ""
        with lock_job(tmp_path) as second:
            assert second == "another process is working"
