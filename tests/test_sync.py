"""Uploads of offline wandb runs, to a stand-in of its server and to nobody."""

import gzip
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments import sync
from experiments.locks import lock
from safex.training.loggers import KEPT_OFFLINE, WandbLogger
from tests.tracked import without_service

SCRIPT = Path(sync.__file__)
KEY = "0123456789" * 4


class Server(http.server.ThreadingHTTPServer):
    """Answers as far as an upload needs it; keeps the rows by run."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.rows = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        said = {}
        if self.path == "/graphql":
            said = {"data": self.data(**json.loads(body))}
        if self.path.endswith("/file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if history:
                rows = self.server.rows.setdefault(self.path.split("/")[-2], {})
                for number, line in enumerate(history["content"], history["offset"]):
                    rows[number] = json.loads(line)
        text = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer  # noqa: N815, as the base class asks for them

    def data(self, query, variables=None, **_):
        if "createRunFiles" in query:
            files = [
                {"name": name, "uploadUrl": f"{self.server.url}/file/{name}"}
                for name in variables["files"]
            ]
            made = {"runID": "x", "uploadHeaders": [], "files": files}
            return {"createRunFiles": made}
        if "upsertBucket" in query:
            project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
            bucket = {"id": "x", "name": variables["name"], "displayName": "d"}
            bucket |= {"config": "{}", "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        return {}

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def command(folder, url, *, key="", options=()):
    """The command in an environment of its own: nobody's login is used."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    here = {"HOME": str(home), "WANDB_BASE_URL": url, "WANDB_API_KEY": key}
    here |= {"WANDB_ERROR_REPORTING": "false", "no_proxy": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *options],
        capture_output=True,
        text=True,
        env=without_service() | here,
        timeout=120,
        check=False,
    )


def offline_run(job, name):
    """A folder as wandb leaves it."""
    folder = job / "wandb" / "wandb" / name
    folder.mkdir(parents=True)
    path = folder / f"run-{name.split('-', 2 + name.startswith('off'))[-1]}.wandb"
    path.write_bytes(b"nothing that can be read")
    return path


def test_rows_arrive_once_and_are_not_sent_again(tmp_path, server):
    job = tmp_path / "job"
    settings = {"mode": "offline", "project": "p", "id": f"i{KEPT_OFFLINE}"}
    logger = WandbLogger(job / "wandb", settings, pytest.fail, [{"step": 1, "a": 5}])
    logger.log({"a": 7}, 3)
    logger.close()
    done = command(job, server.url, key=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(f"uploaded to {server.url} as i")
    rows = [(row["_step"], row["a"]) for row in server.rows["i"].values()]
    assert rows == [(1, 5), (3, 7)]
    server.rows.clear()
    done = command(job, server.url, key=KEY)
    assert done.returncode == 0 and "already uploaded" in done.stdout
    assert "nothing to upload" in done.stdout and not server.rows


def test_without_network_or_login_nothing_is_lost(tmp_path, server):
    job = tmp_path / "job"
    path = offline_run(job, "offline-run-20260101_000000-i")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for url, reason in ((nobody, "cannot be reached"), (server.url, "not logged in")):
        done = command(job, url)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("safex: ") and url in line and reason in line
        assert line.endswith("nothing is lost: 1 run can be uploaded later")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_upload_that_fails_is_told_and_left_for_later(tmp_path, monkeypatch, capsys):
    bad = offline_run(tmp_path, "offline-run-20260101_000000-bad")
    good = offline_run(tmp_path, "offline-run-20260101_000000-good")

    def wandb(*arguments, timeout):
        path = Path(arguments[-1])
        assert arguments[:5] == ("-m", "wandb", "sync", "--id", path.stem[4:])
        if path == good.resolve():
            path.with_suffix(".wandb.synced").touch()
        return subprocess.CompletedProcess(arguments, 0, "", "some\nreason\n")

    monkeypatch.setattr(sync, "check_server", lambda: "http://server")
    monkeypatch.setattr(sync, "_python", wandb)
    assert sync.main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "good: uploaded to http://server as good" in said.out
    assert "bad: not uploaded: reason" in said.err
    assert "1 of 2 not uploaded: 1 run can be uploaded later" in said.err
    assert [run.path for run in sync.find_runs(tmp_path) if run.state == "new"] == [
        bad.resolve()
    ]


def test_the_newest_of_an_id_is_what_is_uploaded(tmp_path, capsys):
    names = {
        "offline-run-20260101_000000-a": "replaced",
        "offline-run-20260102_000000-a": "new",
        f"offline-run-20260101_000000-b{KEPT_OFFLINE}": "uploaded",
        "offline-run-20260103_000000-b": "new",
        "offline-run-20260101_000000-c": "replaced",
        "run-20260105_000000-c": "online",
    }
    for name, state in names.items():
        path = offline_run(tmp_path, name)
        if state == "uploaded":
            path.with_suffix(".wandb.synced").touch()
    (tmp_path / "wandb" / "wandb" / "latest-run").symlink_to(path.parent.name)
    offline_run(tmp_path / "copy", "offline-run-20260101_000000-a")
    found = {
        run.path.parent.name: run.state
        for run in sync.find_runs(tmp_path)
        if "copy" not in run.path.parts
    }
    assert found == names
    assert sync.main([str(tmp_path), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.count("would be uploaded as") == 3 and text.count("replaced by") == 2


def test_what_still_runs_is_left_for_later(tmp_path, capsys):
    job = tmp_path / "job"
    path = offline_run(job, "offline-run-20260101_000000-a")
    with lock(job):
        assert sync.main([str(tmp_path)]) == 0
        assert "a: left for later, its job is running" in capsys.readouterr().out
    mark = path.with_suffix(".wandb.synced")
    mark.touch()
    assert [run.state for run in sync.find_runs(tmp_path)] == ["uploaded"]
    # Rows came after it was uploaded.
    os.utime(mark, ns=(0, path.stat().st_mtime_ns - 1))
    assert [run.state for run in sync.find_runs(tmp_path)] == ["new"]


def test_wandb_that_does_not_start_is_a_line(tmp_path, monkeypatch, capsys):
    def wandb(*arguments, timeout):
        raise subprocess.TimeoutExpired("wandb", timeout)

    offline_run(tmp_path, "offline-run-20260101_000000-a")
    monkeypatch.setattr(sync, "_python", wandb)
    assert sync.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "wandb does not start within 60 s; nothing was uploaded" in line


def test_nothing_there_is_no_failure(tmp_path, capsys):
    assert sync.main([str(tmp_path)]) == 0
    assert "nothing to upload: 0 wandb runs" in capsys.readouterr().out
    assert sync.main([str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_the_ending_of_an_id_is_that_of_the_logger():
    assert f'"{KEPT_OFFLINE}"' in SCRIPT.read_text()
