"""The live table: what it reads of running, stopped, finished and damaged runs."""

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.locks import lock_holder, submitted_file
from experiments.watch import main, table, watch
from tests.finished_run import seed_of, write_run

SCRIPT = Path(__file__).parents[1] / "experiments" / "watch.py"


@pytest.fixture
def run(tmp_path):
    """A run that is not finished: two seeds of three episodes."""
    seeds = [
        seed_of(1, [0, 2, 0, 5], [-9.0, -8.0, -7.5]),
        seed_of(2, [0] * 4, [0.0] * 3),
    ]
    folder = write_run(tmp_path / "run", seeds)
    (folder / "summary.json").unlink()
    (folder / ".lock").touch()
    return folder


def printed(capsys, folder):
    assert main([str(folder), "--once"]) == 0
    return capsys.readouterr().out


def test_what_the_files_say(run, capsys):
    (found,) = watch(run)
    assert (found.state, found.episodes) == ("stopped", 3)
    first, second = found.seeds
    assert first[:4] == (0, 3, -7.5, 7) and second[:4] == (1, 3, 0.0, 0)
    assert 0 <= first.age < 60 and not first.damaged
    old = time.time() - 7200
    for path in (run / "seed_0").rglob("*"):
        os.utime(path, (old, old))
    text = printed(capsys, run)
    assert re.search(r"0 +3/3 +-7\.5 +7 +2 h ago +stopped", text)
    (run / "summary.json").touch()
    assert watch(run)[0].state == "done"


def test_whether_the_process_lives(run):
    assert lock_holder(run / ".lock") == (False, None)
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run / ".lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        held, pid = lock_holder(run / ".lock")
        assert held and pid in (holder.pid, None)
        (found,) = watch(run)
        assert found.state == "running" and found.pid == pid
        holder.communicate()
    assert watch(run)[0].state == "stopped"


def test_a_seed_of_its_own_process_and_one_that_failed(run, capsys):
    (run / "seed_1" / "error.txt").write_text("[NaN] in the fit\nTraceback ...")
    with (run / "seed_0" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (found,) = watch(run)
        assert found.state == "running" and found.pid is None
        assert [seed.held for seed in found.seeds] == [True, False]
        text = " ".join(printed(capsys, run).split())
        assert "this seed done" in text and "failed: [NaN] in the fit" in text
        rows = (run / "seed_0" / "metrics.jsonl").read_text().splitlines()[:2]
        (run / "seed_0" / "metrics.jsonl").write_text("\n".join(rows))
        pid = watch(run)[0].seeds[0].pid
        assert pid in (os.getpid(), None)
        assert f"running, process {pid}" in printed(capsys, run) or pid is None


def test_looking_takes_no_lock_away(run):
    watch(run)
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["metrics.jsonl", "violations.jsonl"])
@pytest.mark.parametrize(
    "damage",
    [b"", b'{"step": 1', b"\xff\xfe\x00", b"[1]\n3\nnull\n", b'{"a": NaN}\n'],
)
def test_damaged_files_are_read_as_far_as_they_go(run, capsys, name, damage):
    path = run / "seed_0" / name
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    (found,) = watch(run)
    assert found.seeds[0].violating_steps == 7 or b"NaN" in damage
    torn = damage not in (b"", b'{"a": NaN}\n')
    assert found.seeds[0].damaged == torn
    path.write_bytes(damage)
    assert ("lines damaged" in printed(capsys, run)) == torn
    path.unlink()
    printed(capsys, run)


@pytest.mark.parametrize(
    "text", ["", "a: [", "3", "train: 5\njob: []", "\x00", "a: 2001-99-99"]
)
def test_a_damaged_configuration_hides_only_what_it_said(run, capsys, text):
    (run / "config.yaml").write_text(text)
    (found,) = watch(run)
    assert found.episodes is None and len(found.seeds) == 2
    assert re.search(r"0 +3 +-7\.5 +7 ", printed(capsys, run))


def test_seeds_and_points_that_have_not_begun(tmp_path, capsys):
    job = tmp_path / "job"
    a = write_run(job / "a=1", [seed_of(1, [0, 0], [0.0])])
    b = write_run(job / "a=[2]", [seed_of(1, [0, 0], [0.0])])
    (job / "config.yaml").write_text("job: {num_seeds_per_hparam: 1}\n")
    for path in [b / "summary.json", *(b / "seed_0").iterdir()]:
        path.unlink()
    (b / "seed_0").rmdir()
    first, second = watch(tmp_path)
    assert (first.folder, first.state) == (a, "done")
    assert (second.folder, second.state) == (b, "waiting")
    assert second.seeds[0][1:] == (None,) * 4 + (False, False, None, None)
    with (job / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [found.state for found in watch(job)] == ["done", "running"]
    text = printed(capsys, tmp_path)
    assert "job/a=[2]" in text and "1 of 2 runs done" in text


def test_it_ends_with_a_seed_that_failed(run, capsys):
    (run / "seed_1" / "error.txt").write_text("NaN in the fit\n")
    assert main([str(run), "--interval", "0.1"]) == 0
    assert "failed: NaN in the fit" in capsys.readouterr().out


def test_what_slurm_has_queued_is_not_stopped(run, capsys):
    path = submitted_file(run)
    path.parent.mkdir()
    path.touch()
    assert watch(run)[0].state == "queued"
    assert "queued" in printed(capsys, run)
    (run / "summary.json").touch()
    assert watch(run)[0].state == "done"


def test_it_ends_when_all_is_done(tmp_path, capsys):
    write_run(tmp_path / "a", [seed_of(1, [0, 0], [0.0])])
    assert main([str(tmp_path), "--interval", "0.1"]) == 0
    assert "done" in capsys.readouterr().out


def test_no_job_is_one_clear_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "none"):
        assert main([str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"safex: {folder} ")


@pytest.mark.parametrize("name", ["watch", "plot", "report", "resume"])
def test_help_imports_nothing_heavy(name):
    script = SCRIPT.with_name(f"{name}.py")
    code = (
        f"import runpy, sys\nsys.argv = [{str(script)!r}, '--help']\n"
        f"try:\n    runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print('heavy', {'numpy', 'jax', 'matplotlib', 'rich'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "DIR" in done.stdout and "heavy set()" in done.stdout


def test_agents_without_a_model_count_steps(tmp_path):
    for name, train in (("a", "num_model_updates: 8"), ("b", "total_steps: 9000")):
        (tmp_path / name).mkdir()
        text = f"train: {{{train}}}\njob: {{num_seeds_per_hparam: 1}}\n"
        (tmp_path / name / "config.yaml").write_text(text)
    for folder, heading in (("a", ["episode"]), ("b", ["step"])):
        (run,) = watch(tmp_path / folder)
        columns = [column.header for column in table([run], tmp_path).columns]
        assert columns[1:2] == heading
    both = table(watch(tmp_path), tmp_path)
    assert "episode\nor step" in [column.header for column in both.columns]
