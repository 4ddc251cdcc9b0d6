"""Local metric files, and what stands beside them read back from its own files."""

import csv
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments import tracking
from safex.errors import ConfigError
from safex.training.loggers import (
    LocalLogger,
    SideLogger,
    TensorBoardLogger,
    WandbLogger,
    close_all,
)
from tests.tracked import events, wandb_rows

ROOT = Path(__file__).resolve().parents[1]


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


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_wandb_absent_is_said_once_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = []
    make = lambda: WandbLogger(tmp_path, SETTINGS, said.append)  # noqa: E731
    logger = SideLogger("wandb", make, said.append)
    logger.log({"a": 1}, 1)
    logger.close()
    assert len(said) == 1
    assert "wandb cannot be used" in said[0]


class Failing:
    """Fails from its second row on."""

    def __init__(self):
        self.taken = []

    def log(self, metrics, step):
        self.taken.append(step)
        if len(self.taken) > 1:
            raise ConnectionError("network is gone\nand more")

    def close(self):
        raise AssertionError("nobody closes what has failed")


def test_a_logger_that_fails_later_is_told_of_once_and_left_out():
    failing, said = Failing(), []
    logger = SideLogger("wandb", lambda: failing, said.append)
    for step in range(5):
        logger.log({"a": 1}, step)
    wait_for(lambda: said)
    logger.log({"a": 1}, 9)
    logger.close()
    assert failing.taken == [0, 1]
    assert said == [
        "wandb cannot be used and is left out, local files go on: network is gone"
    ]


def test_a_full_disk_stops_no_run(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    said = []
    logger = SideLogger(
        "TensorBoard", lambda: TensorBoardLogger(blocked / "below", []), said.append
    )
    logger.log({"a": 1}, 1)
    logger.close()
    assert len(said) == 1 and said[0].startswith("TensorBoard cannot be used")


def test_many_loggers_that_hang_are_waited_for_once():
    hung, said = threading.Event(), []

    def hang():
        hung.wait(60)

    loggers = [SideLogger(f"wandb {i}", hang, said.append, 2.0) for i in range(8)]
    start = time.monotonic()
    close_all(loggers)
    # One after the other they would take 16 s.
    assert 1.9 < time.monotonic() - start < 8
    assert len(said) == 8
    hung.set()


def test_what_was_handed_over_is_written_before_the_end():
    rows = []

    class Slow:
        def log(self, metrics, step):
            time.sleep(0.05)
            rows.append(step)

        def close(self):
            rows.append("closed")

    logger = SideLogger("wandb", Slow, pytest.fail)
    for step in range(4):
        logger.log({"a": 1}, step)
    close_all([logger])
    assert rows == [0, 1, 2, 3, "closed"]


def test_a_logger_that_hangs_holds_nothing_up():
    hung, said = threading.Event(), []

    class Hanging:
        def log(self, metrics, step):
            hung.wait(20)

        def close(self):
            pass

    logger = SideLogger("wandb", Hanging, said.append, patience=0.2)
    start = time.monotonic()
    for step in range(100):
        logger.log({"a": 1}, step)
    logger.close()
    assert time.monotonic() - start < 5
    assert len(said) == 1 and "wandb has not answered for 0.2 s" in said[0]
    hung.set()


def test_what_is_handed_over_late_is_still_written():
    taken = []

    class Slow:
        def log(self, metrics, step):
            time.sleep(0.01)
            taken.append((step, dict(metrics)))

        def close(self):
            taken.append("closed")

    logger = SideLogger("slow", Slow, pytest.fail)
    metrics = {"a": 0}
    for step in range(5):
        metrics["a"] = step
        logger.log(metrics, step)  # the row as it was then
    logger.close()
    assert taken == [*((step, {"a": step}) for step in range(5)), "closed"]


def test_tensorboard_holds_every_row_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboardX")
    local = LocalLogger(tmp_path, None)
    board = TensorBoardLogger(tmp_path / "tensorboard", local.rows)
    for step in (100, 300, 500):
        for logger in (local, board):
            logger.log({"train/a": step / 2, "train/b": None}, step)
    # Killed here: written at once, and nobody closed it.
    assert len(events(tmp_path / "tensorboard")) == 3
    again = LocalLogger(tmp_path, 300)
    killed, board = board, TensorBoardLogger(tmp_path / "tensorboard", again.rows)
    killed.close()
    assert len(events(tmp_path / "tensorboard")) == 2
    board.log({"train/a": -1.0}, 500)
    board.close()
    assert events(tmp_path / "tensorboard") == [
        ("train/a", 100, 50.0),
        ("train/a", 300, 150.0),
        ("train/a", 500, -1.0),
    ]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_missing_package_is_refused_by_its_extra(monkeypatch):
    class Config:
        tensorboard = True

    tracking.check_tracking(Config())
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"safex\[tensorboard\]"):
        tracking.check_tracking(Config())
    Config.tensorboard = False
    tracking.check_tracking(Config())


def in_another_process(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def test_an_offline_run_of_wandb_holds_the_rows_from_before_a_resume(tmp_path):
    local = LocalLogger(tmp_path, None)
    for step in (100, 300, 500):
        local.log({"a": step, "b": None}, step)
    again = LocalLogger(tmp_path, 300)
    run = WandbLogger(tmp_path / "wandb", SETTINGS, pytest.fail, again.rows)
    run.log({"a": -1}, 500)
    run.close()
    # The link to the newest run is wandb's own.
    # The link to the newest run is wandb's own; its service writes a moment later.
    folder = (tmp_path / "wandb" / "wandb" / "latest-run").resolve()
    expected = [(100, 100), (300, 300), (500, -1)]
    wait_for(lambda: wandb_rows(folder) == expected)


def test_a_server_that_is_not_there_leaves_an_offline_run(tmp_path):
    """In a process of its own: wandb reads its environment once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from safex.training import loggers\n"
        "loggers._ANSWER = 2\n"
        f"settings = {SETTINGS | {'mode': 'online'}!r}\n"
        "make = lambda: loggers.WandbLogger(Path(sys.argv[1]), settings, print)\n"
        "logger = loggers.SideLogger('wandb', make, print)\n"
        "logger.log({'a': 1}, 1)\n"
        "logger.close()\n"
    )
    done = in_another_process(
        code,
        str(tmp_path),
        HOME=str(tmp_path),
        WANDB_BASE_URL=f"http://127.0.0.1:{port}",
        WANDB_API_KEY="0" * 40,
    )
    (said,) = done.stdout.splitlines()
    assert "kept offline" in said and "sync.py" in said
    folder = (tmp_path / "wandb" / "latest-run").resolve()
    assert folder.name.startswith("offline-run-")
    assert folder.name.endswith("-i-offline")
    assert wandb_rows(folder) == [(1, 1)]
