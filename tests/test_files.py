import errno
import json
import os
import stat

import pytest

from safex.errors import ResultsError
from safex.training.files import read_arrays, sealed, whole_lines, write_text


def test_a_file_and_then_its_folder_are_flushed(tmp_path, monkeypatch):
    """In an order that leaves a whole file after a power cut at any moment."""
    path, seen = tmp_path / "new" / "file.txt", []

    def fsync(handle):
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        seen.append(("folder" if folder else "file", path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "all of it")
    assert seen == [("file", False), ("folder", True)]
    assert path.read_text() == "all of it"


@pytest.mark.parametrize(
    ("code", "refused"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)],
)
def test_a_folder_that_cannot_be_flushed_is_no_error_but_a_broken_disk_is(
    tmp_path, monkeypatch, code, refused
):
    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    if refused:
        with pytest.raises(OSError, match=r"file\.txt"):
            write_text(tmp_path / "file.txt", "text")
    else:
        write_text(tmp_path / "file.txt", "text")
    assert (tmp_path / "file.txt").read_text() == "text"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_lines_are_read_up_to_the_first_that_is_not_what_was_written(tmp_path):
    path = tmp_path / "lines.jsonl"
    entries = [sealed({"step": step, "value": 5}) for step in range(3)]
    lines = [json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines) + "\n")
    assert whole_lines(path, "step") == entries
    # A digit, the name of the seal, and an end of a line that is not one.
    for old, new in (('"value": 5', '"value": 4'), ("sha256", "sha257")):
        wrong = lines[1].replace(old, new)
        path.write_text("\n".join([lines[0], wrong, lines[2]]) + "\n")
        assert whole_lines(path, "step") == entries[:1]
    path.write_text("\v".join(lines) + "\n")
    assert whole_lines(path, "step") == []
    # A run of an earlier version goes on with seals.
    plain = [{"step": 0}, *entries[1:]]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in plain))
    assert whole_lines(path, "step") == plain
    path.write_text("")
    assert whole_lines(path) == []


@pytest.mark.parametrize("read", [whole_lines, read_arrays])
def test_a_disk_that_fails_is_not_taken_for_damage(tmp_path, monkeypatch, read):
    path = tmp_path / "file"
    path.write_bytes(b"anything")

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("read_bytes", "read_text"):
        monkeypatch.setattr(type(path), name, fail)
    with pytest.raises(ResultsError, match="file cannot be read: Input/output error"):
        read(path)


def test_a_missing_archive_is_broken_and_missing_lines_are_missing(tmp_path):
    with pytest.raises(ValueError, match="missing"):
        read_arrays(tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError):
        whole_lines(tmp_path / "nothing.jsonl")
