"""The harness that breaks runs sees what it is there to see.

What it finds in real runs is in docs/reliability.md; here the runs are a few files.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import faults
from benchmarks.faults import JOBS, Ended, Lab

MODEL_FREE = JOBS["model_free"]


@pytest.fixture(params=JOBS)
def lab(request, tmp_path):
    """With a reference that has every kind of file that is compared."""
    made = Lab(tmp_path / "lab", 0, JOBS[request.param])
    for number in range(2):
        episodes = made.reference / f"seed_{number}" / "episodes"
        episodes.mkdir(parents=True)
        for name in made.tiny.lines:
            (episodes.parent / name).write_text(f"{name}\n")
        with (episodes / "episode_000.npz").open("wb") as file:
            np.savez(file, obs=np.array([1.0, np.nan]))
    summary = {"seconds": 1.0, "seeds": [1, 2]}
    (made.reference / "summary.json").write_text(json.dumps(summary))
    return made


def test_other_numbers_are_seen(lab):
    assert lab.compare(lab.finished()) == "identical"
    for name in lab.tiny.lines:
        job = lab.finished()
        faults.flip(job / "seed_1" / name, lab.random)
        assert lab.compare(job) == f"FAILED: {name} differs"
        (job / "seed_1" / name).unlink()
        assert lab.compare(job) == f"FAILED: {name} is not there"
    job = lab.finished()
    path = job / "summary.json"
    path.write_text('{"seconds": 2.0, "seeds": [1, 2]}')
    assert lab.compare(job) == "identical"
    path.write_text('{"seconds": 2.0, "seeds": [1, 3]}')
    assert lab.compare(job) == "FAILED: other numbers in summary.json: seeds"
    path.unlink()
    assert lab.compare(job).startswith("FAILED: summary.json: ")


def test_another_record_is_seen_unless_it_is_damaged_and_decides_nothing(lab):
    job, name = lab.finished(), "seed_1/episodes/episode_000.npz"
    faults.cut(job / name, lab.random)
    assert lab.compare(job) == "FAILED: episode_000.npz differs"
    idle = lab.tiny is MODEL_FREE
    assert (lab.compare(job, name) == "identical") == idle
    with (job / name).open("wb") as file:
        np.savez(file, obs=np.array([1.5, np.nan]))
    assert lab.compare(job) == "FAILED: episode_000.npz differs"
    assert lab.compare(job, "seed_0/episodes/episode_000.npz").startswith("FAILED")


def test_an_end_is_judged_by_its_code_and_its_line(lab):
    job = lab.finished()

    def judge(code, err):
        return lab.judge(job, Ended(code, "", err, 1.0))

    assert judge(0, "a warning") == "identical"
    assert judge(2, f"noise\nsafex: {job}/a is torn\n") == (
        "one clear line: JOB/a is torn"
    )
    assert judge(2, "safex: a\nsafex: b\n").startswith("FAILED: code 2 and 2 lines")
    assert judge(-9, "").startswith("FAILED: code -9 and 0 lines")
    traced = "Traceback (most recent call last)\n  ...\nKeyError: 'a'\n"
    assert judge(0, traced) == "FAILED: a traceback that ends with KeyError: 'a'"


def test_a_run_that_was_left_alone_is_told_from_one_that_was_mended(lab, monkeypatch):
    job = lab.finished()
    for out, outcome in (
        (f"{job}: complete\n", "identical, and left alone"),
        (f"{job}: its report\n", "identical"),
    ):
        monkeypatch.setattr(lab, "run", lambda _, out=out: Ended(0, out, "", 1.0))
        assert lab.complete(job, damaged="seed_0/plots/a.png") == outcome
        assert lab.complete(job) == "identical"


def test_damage_is_what_it_is_called(tmp_path):
    path, chance = tmp_path / "file", random.Random(1)
    before = bytes(range(100))
    found = {}
    for name, do in faults.DAMAGES.items():
        path.write_bytes(before)
        do(path, chance)
        found[name] = path.read_bytes() if path.exists() else None
    assert found["cut to half"] == before[:50]
    assert found["emptied"] == b""
    assert found["deleted"] is None
    changed = [a ^ b for a, b in zip(before, found["one bit flipped"], strict=True)]
    assert sum(bits.bit_count() for bits in changed) == 1


@pytest.mark.parametrize("state", ["unfinished", "finished"])
def test_every_file_is_damaged_in_every_way_and_the_run_completed(
    lab, state, monkeypatch
):
    """A finished run as well: that its damage is noticed is not enough."""
    monkeypatch.setattr(lab, "unfinished", lab.finished)
    seen = []

    def complete(job, *, same_command, damaged):
        assert same_command == (state == "unfinished")
        left, right = (
            (folder / damaged).read_bytes() if (folder / damaged).exists() else None
            for folder in (job, lab.reference)
        )
        assert left != right
        seen.append(damaged)
        if damaged == "summary.json":
            return "FAILED: so"
        shutil.copy(lab.reference / damaged, job / damaged)
        return lab.compare(job, damaged)

    monkeypatch.setattr(lab, "complete", complete)
    options = argparse.Namespace(
        state=[state], match="*", damage=None, files=None, flips=2
    )
    rows = list(faults.files(lab, options))
    count = 2 * (len(lab.tiny.lines) + 1) + 1
    assert [row.times for row in rows] == [count, count, 2 * count, count]
    assert all(row.failed for row in rows)
    assert len(seen) == 5 * count and len(set(seen)) == count
    assert all("every file" in row.fault for row in rows)
    assert rows[0].text().splitlines() == [
        f"{count - 1} identical",
        "1 FAILED: so (summary.json)",
    ]
    options.match, options.damage = "*/metrics.csv", ["deleted"]
    (row,) = faults.files(lab, options)
    assert (row.times, row.failed) == (2, False)


@pytest.mark.slow
def test_a_damaged_file_of_a_run_without_a_model_is_mended(tmp_path):
    command = [sys.executable, faults.__file__, "--job", "model_free", "--no-figures"]
    command += ["--folder", str(tmp_path), "--only", "files", "--state", "finished"]
    command += ["--damage", "emptied", "--match", "seed_0/evaluations.jsonl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "emptied | 1 | identical\n" in done.stdout
