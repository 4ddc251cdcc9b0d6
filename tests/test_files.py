import errno
import os
import stat

import pytest

from safex.training.files import write_text


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
