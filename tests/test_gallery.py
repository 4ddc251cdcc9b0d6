"""The figures of the gallery."""

import pytest

from benchmarks import gallery


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_runs_is_one_line_and_no_figure(tmp_path, capsys, name):
    out = tmp_path / "figures"
    assert gallery.main([str(tmp_path / name), "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "no run in" in line and "benchmarks/study.py run" in line
    assert not out.exists() or not any(out.iterdir())
