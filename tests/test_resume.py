"""Completing what was stopped or damaged; an exact resume itself is in test_loop."""

import errno
import json
import shutil

import pytest

from experiments import folders, resume, running, wholeness
from experiments.folders import lock_job, write_config
from safex.errors import ResultsError
from safex.training.account import append_jsonl, violations
from safex.training.files import whole_lines
from safex.training.loggers import LocalLogger
from tests.test_account import make_record
from tests.test_configuration import read
from tests.test_evaluate import TINY


@pytest.fixture(autouse=True)
def _jax_is_set_up(monkeypatch):
    monkeypatch.setattr(running, "set_up_jax", lambda: None)


UPDATES = ("train.num_model_updates=4",)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A finished job of two seeds and four planned episodes."""
    folder = tmp_path_factory.mktemp("jobs") / "task" / "job"
    patch = pytest.MonkeyPatch()
    patch.setattr(running, "set_up_jax", lambda: None)
    more = (*UPDATES, f"results_dir={folder}", "render=false")
    running.run_job(read(*TINY, *more, "verbose=false"))
    patch.undo()
    return folder


@pytest.fixture
def copy(job, tmp_path):
    return shutil.copytree(job, tmp_path / "job")


def test_a_complete_job_is_left_alone_wherever_it_lies(job, capsys):
    before = {path: path.stat().st_mtime_ns for path in job.rglob("*")}
    assert resume.main([str(job.parents[1])]) == 0
    assert f"{job}: complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in job.rglob("*")} == before


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


# Of episodes 0 to 4 the checkpoints after 2, 3 and 4 are kept.
DAMAGE = {
    "seed_0/episodes/episode_004.npz": "seed_0: from episode 4 on",
    "seed_0/episodes/episode_002.npz": "seed_0: from episode 0 on",
    "seed_1/episodes/episode_000.npz": "seed_1: from episode 0 on",
    "seed_1/forecast.npz": "seed_1: from episode 4 on",
    "seed_0/timing.jsonl": "seed_0: from episode 0 on",
    "seed_1/metrics.jsonl": "seed_1: from episode 0 on",
    "summary.json": "its report",
    "seed_1/metrics.csv": "seed_1: from episode 4 on",
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("damage", [cut, lambda path: path.unlink()])
def test_what_cannot_be_read_is_found_and_only_said_if_so_asked(
    copy, capsys, name, damage
):
    damage(copy / name)
    assert resume.main([str(copy), "--dry-run"]) == 0
    assert DAMAGE[name] in capsys.readouterr().out
    assert len(list(copy.rglob("*.ckpt"))) == 6


def test_a_checkpoint_that_cannot_be_read_is_not_gone_on_from(copy, capsys):
    newest = copy / "seed_0" / "checkpoints" / "episode_0003.ckpt"
    newest.write_bytes(newest.read_bytes()[:100])
    # A name that is not the header's is damage too.
    folder = copy / "seed_1" / "checkpoints"
    shutil.copy(folder / "episode_0002.ckpt", folder / "episode_0003.ckpt")
    for seed in ("seed_0", "seed_1"):
        (copy / seed / "episodes" / "episode_004.npz").unlink()
    assert resume.main([str(copy), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "seed_0: from episode 3 on" in said
    assert "seed_1: from episode 3 on" in said
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert resume.main([str(copy), "--dry-run"]) == 0
    assert "seed_1: none of the 2 checkpoints" in capsys.readouterr().out
    # The real one says the same.
    text = wholeness.forget_broken(copy / "seed_0", read(*TINY, *UPDATES))
    assert text.endswith("not all of it is whole; from episode 3 on")
    assert not (folder.parents[1] / "seed_0/checkpoints/episode_0004.ckpt").exists()


def edit(path, line, old, new):
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new, 1)
    path.write_text("".join(lines))


def test_other_numbers_than_were_written_are_found(copy, capsys):
    """Files that can be read all right, with a digit or a name that is not theirs."""
    edit(copy / "seed_0" / "metrics.csv", 4, ",", ",1")
    metrics = copy / "seed_1" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[3:]))
    assert resume.main([str(copy), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "seed_0: from episode 3 on" in said
    assert "seed_1: from episode 0 on" in said


def test_a_name_that_the_table_does_not_have_is_found(tmp_path):
    LocalLogger(tmp_path, None).log({"a": 1.5, "b": None}, 10)
    path = tmp_path / "metrics.jsonl"
    assert first_other_row(tmp_path, whole_lines(path)) == 1
    edit(path, 0, '"b"', '"c"')
    assert first_other_row(tmp_path, whole_lines(path)) == 0


def first_other_row(folder, rows, *, finished=False):
    return wholeness._first_other_row(folder / "metrics.csv", rows, finished=finished)


def test_a_table_that_a_kill_left_a_row_ahead_is_believed(tmp_path):
    logger = LocalLogger(tmp_path, None)
    for step in (10, 20, 30):
        logger.log({"a": step / 4}, step)
    rows = whole_lines(tmp_path / "metrics.jsonl")
    assert first_other_row(tmp_path, rows[:2]) == 2
    # In a finished run nothing would write it again.
    assert first_other_row(tmp_path, rows[:2], finished=True) == 1
    # The next start does.
    table = (tmp_path / "metrics.csv").read_text()
    LocalLogger(tmp_path, 20)
    assert (tmp_path / "metrics.csv").read_text() == table.removesuffix("30,7.5\n")
    assert first_other_row(tmp_path, rows) == 2


@pytest.mark.parametrize("wrong", ["\x0b", '"'])
def test_a_table_that_no_csv_reader_takes_is_damaged_from_there_on(tmp_path, wrong):
    logger = LocalLogger(tmp_path, None)
    logger.log(dict.fromkeys(map(str, range(9_000)), 1.25), 10)
    for step in (20, 30, 40):
        logger.log(dict.fromkeys(map(str, range(9_000)), 1.25), step)
    rows = whole_lines(tmp_path / "metrics.jsonl")
    assert first_other_row(tmp_path, rows, finished=True) == 4
    path = tmp_path / "metrics.csv"
    text = path.read_text()
    # From the second row on; what is quoted is longer than a cell may be.
    place = text.index("\n20,") + (0 if wrong != '"' else 4)
    path.write_text(text[:place] + wrong + text[place + 1 :])
    # The first row ends where the second begins.
    assert first_other_row(tmp_path, rows, finished=True) == (1 if wrong == '"' else 0)


def test_a_row_without_a_time_that_the_others_have_is_found(tmp_path):
    path = tmp_path / "timing.jsonl"
    append_jsonl(path, [{"episode": e, "seeds": 1, "more": 0} for e in range(3)])
    whole = wholeness._whole_rows
    assert len(whole(path, "episode", wholeness._TIMED)) == 3
    edit(path, 1, "seeds", "seedz")
    assert len(whole(path, "episode", wholeness._TIMED)) == 1


def test_a_summary_of_other_numbers_is_written_again(copy, capsys):
    path = copy / "summary.json"
    path.write_text(path.read_text().replace('"num_seeds": 2', '"num_seeds": 3'))
    assert resume.main([str(copy), "--dry-run"]) == 0
    assert "its report" in capsys.readouterr().out
    # That of an earlier version, which had no seal, is believed.
    plain = json.loads(path.read_text())
    del plain["sha256"]
    path.write_text(json.dumps(plain))
    assert resume.main([str(copy), "--dry-run"]) == 0
    assert "complete" in capsys.readouterr().out


def test_a_disk_that_fails_is_one_line(copy, capsys, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (copy / "summary.json").unlink()
    monkeypatch.setattr("safex.training.files._write_text", fail)
    assert resume.main([str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device: " in line and "goes on" in line


def test_a_launch_killed_at_its_first_file_can_start_again(tmp_path, monkeypatch):
    config = read(*TINY, f"results_dir={tmp_path / 'job'}")

    (tmp_path / "job").mkdir()
    (tmp_path / "job" / ".config.json.17.tmp").write_text("{")

    def killed():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folders, "revision", killed)
        with folders.open_results_dir(config) as folder:
            folders.write_config(folder, config)
    with folders.open_results_dir(config) as folder:
        folders.write_config(folder, config)
    assert (folder / "config.yaml").exists() and (folder / "revision.txt").exists()


def test_violations_that_the_record_does_not_know_are_found(tmp_path):
    path = tmp_path / "violations.jsonl"
    record = make_record([0, 1], [-1.0, 0.25], [0, 3])
    entries = [e for n in (0, 1) for e in violations(record, n, 2 * n, [6.0])]
    append_jsonl(path, entries)
    first = wholeness._first_other_violation
    assert first(path, [record, record]) == 2
    edit(path, 1, "0.25", "0.75")
    assert first(path, [record, record]) == 1
    path.write_text("")
    assert first(path, [record, record]) == 0
    # An earlier version said less of each.
    append_jsonl(path, [{k: e[k] for k in e if k != "state"} for e in entries])
    assert first(path, [record, record]) == 2


def test_a_damaged_job_ends_with_the_same_numbers(job, copy, capsys):
    cut(copy / "seed_0" / "episodes" / "episode_004.npz")
    cut(copy / "seed_1" / "metrics.jsonl")
    (copy / "seed_1" / "timing.jsonl").write_bytes(b"\xff\xfe")
    (copy / "summary.json").unlink()
    assert resume.main([str(copy)]) == 0
    one, other = (
        json.loads((folder / "summary.json").read_text()) for folder in (job, copy)
    )
    assert one["seeds"] == other["seeds"]
    capsys.readouterr()
    assert resume.main([str(copy)]) == 0
    assert "complete" in capsys.readouterr().out


def test_a_job_that_is_worked_on_keeps_its_checkpoints(copy, capsys):
    (copy / "seed_1" / "episodes" / "episode_000.npz").unlink()
    with lock_job(copy) as holder:
        assert holder == ""
        assert resume.main([str(copy)]) == 2
    assert "another process is working" in capsys.readouterr().err
    assert len(list(copy.rglob("*.ckpt"))) == 6


def test_a_job_of_other_settings_keeps_its_checkpoints(copy, capsys):
    (copy / "seed_1" / "episodes" / "episode_000.npz").unlink()
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("pes_steps: 2.0", "pes_steps: 3.0"))
    assert resume.main([str(copy)]) == 2
    assert "agent.pes_steps" in capsys.readouterr().err
    assert len(list(copy.rglob("*.ckpt"))) == 6
    path.write_text("[")
    assert resume.main([str(copy)]) == 2
    assert "config.yaml is damaged" in capsys.readouterr().err


def test_what_was_launched_dry_is_resumed_for_real(tmp_path, monkeypatch):
    write_config(
        tmp_path, read("method=safe", "launcher=slurm", "launcher.dry_run=true")
    )
    ran = []
    monkeypatch.setattr(running, "run_job", ran.append)
    assert resume.main([str(tmp_path)]) == 0
    assert (ran[0].launcher.kind, ran[0].launcher.settings.dry_run) == ("slurm", False)


def test_a_torn_violation_costs_its_own_episode_alone(tmp_path):
    path = tmp_path / "violations.jsonl"
    record = make_record([0, 1], [-1.0, 0.25], [0, 3])
    entries = [e for n in range(3) for e in violations(record, n, 2 * n, [6.0])]
    append_jsonl(path, entries)
    first, text = wholeness._first_other_violation, path.read_text()
    # As a full disk leaves it; of the episode there may be a record, or none yet.
    path.write_text(text[:-9])
    assert first(path, [record] * 3) == 2
    assert first(path, [record] * 2) == 2
    path.write_text(text[:9])
    assert first(path, []) == 0
    harmless = make_record([0, 0], [-1.0, -1.0], [0, 3])
    assert first(path, [harmless] * 2) == 2
    # Limits that are not those of the others are the damage of one line.
    path.write_text(text)
    edit(path, 2, "[6.0]", "[7.0]")
    assert first(path, [record] * 3) == 2
    path.unlink()
    assert first(path, [record] * 3) == 0
    assert first(path, [harmless, record]) == 1
    # A file that is gone is written again, though nothing stood in it.
    assert first(path, [harmless] * 2) == 1


@pytest.mark.parametrize(
    "name",
    [
        "episodes/episode_002.npz",
        "forecast.npz",
        "metrics.csv",
        "metrics.jsonl",
        "timing.jsonl",
        "violations.jsonl",
    ],
)
def test_what_cannot_be_read_now_is_said_and_costs_nothing(copy, capsys, name):
    """A link to itself stands for every error of the system, root's as well."""
    path = copy / "seed_1" / name
    path.unlink()
    path.symlink_to(path.name)
    (copy / "summary.json").unlink()
    before = {p: p.lstat().st_mtime_ns for p in copy.rglob("*.ckpt")}
    assert len(before) == 6
    more = ("train.num_model_updates=4", f"results_dir={copy}", "render=false")
    with pytest.raises(ResultsError, match=f"{name} cannot be read: Too many levels"):
        running.run_job(read(*TINY, *more, "verbose=false"))
    assert resume.main([str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path} cannot be read: Too many levels of symbolic links" in line
    assert {p: p.lstat().st_mtime_ns for p in copy.rglob("*.ckpt")} == before


def test_a_folder_without_a_job_is_named_and_the_next_goes_on(job, capsys, tmp_path):
    assert resume.main([str(tmp_path / "nothing"), str(job)]) == 2
    captured = capsys.readouterr()
    assert "nothing: holds no job" in captured.err
    assert "complete" in captured.out


def test_the_launching_command_sees_what_is_damaged_as_well(job, copy, capsys):
    """Or it would go on from the last checkpoint beside numbers that are not true."""
    for seed in ("seed_0", "seed_1"):
        # As if it had been killed in its last episode.
        (copy / seed / "checkpoints" / "episode_0004.ckpt").unlink()
        (copy / seed / "episodes" / "episode_004.npz").unlink()
        (copy / seed / "forecast.npz").unlink()
    edit(copy / "seed_1" / "metrics.jsonl", 3, "return", "retury")
    more = ("train.num_model_updates=4", f"results_dir={copy}", "render=false")
    running.run_job(read(*TINY, *more, "verbose=false"))
    said = capsys.readouterr().out.replace("\n", "")
    assert f"{copy}/seed_1: not all of it is whole; from episode 3 on" in said
    assert f"{copy}/seed_0: not all" not in said
    for seed in ("seed_0", "seed_1"):
        for name in ("metrics.csv", "metrics.jsonl", "violations.jsonl"):
            path = f"{seed}/{name}"
            assert (copy / path).read_text() == (job / path).read_text()
