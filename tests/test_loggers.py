"""Local metric files, and wandb read back from its own offline file."""

import csv
import sys

import pytest

from safex.training.loggers import LocalLogger, WandbLogger


def read_rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_rows_in_csv_and_jsonl(tmp_path):
    logger = LocalLogger(tmp_path, None)
    logger.log({"train/a": 1.5, "train/b": None}, 100)
    logger.log({"train/a": 2.5, "train/b": 3}, 300)
    rows = read_rows(tmp_path)
    assert rows[0] == {"step": "100", "train/a": "1.5", "train/b": ""}
    assert rows[1] == {"step": "300", "train/a": "2.5", "train/b": "3"}


def test_a_resume_drops_rows_that_are_done_again(tmp_path):
    logger = LocalLogger(tmp_path, None)
    for step in (100, 300, 500):
        logger.log({"a": step}, step)
    again = LocalLogger(tmp_path, 300)
    again.log({"a": -1}, 500)
    rows = read_rows(tmp_path)
    assert [row["a"] for row in rows] == ["100", "300", "-1"]


def test_a_fresh_run_does_not_inherit_rows(tmp_path):
    LocalLogger(tmp_path, None).log({"a": 1}, 1)
    LocalLogger(tmp_path, None).log({"a": 2}, 1)
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n1,2\n"


def test_nan_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="metric train/loss is nan at step 7"):
        LocalLogger(tmp_path, None).log({"train/loss": float("nan")}, 7)


SETTINGS = {
    "mode": "offline",
    "project": "p",
    "group": "g",
    "job_type": "j",
    "name": "n",
    "id": "i",
    "config": {"seed": 1},
}


def test_wandb_absent_is_said_once_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = []
    logger = WandbLogger(tmp_path, SETTINGS, said.append)
    logger.log({"a": 1}, 1)
    logger.close()
    assert len(said) == 1
    assert "wandb cannot be used" in said[0]


def test_wandb_that_fails_later_is_left_out(tmp_path):
    class Failing:
        def log(self, *_args, **_kwargs):
            raise ConnectionError("network is gone")

    said = []
    logger = WandbLogger.__new__(WandbLogger)
    logger._warn, logger._run = said.append, Failing()
    logger.log({"a": 1}, 1)
    logger.log({"a": 1}, 2)
    assert said == [
        "wandb cannot be used and is left out, local files go on: network is gone"
    ]
