import functools
import re
import subprocess
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from safex.envs import rendering
from safex.envs.pendulum import Pendulum
from safex.training.video import episode_video, write_video
from tests.systems import Slider


def read_back(path):
    """Decodes a video: frames `[n, height, width, 3]`, its fps and the stream line."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    line = re.search(r"Stream .*Video: .*", done.stderr.decode())[0]
    width, height = (int(n) for n in re.search(r", (\d+)x(\d+)", line).groups())
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return frames, float(re.search(r"([\d.]+) fps", line)[1]), line


def grey(value, height=32, width=48):
    return np.full((height, width, 3), value, np.uint8)


def episode(steps):
    theta = np.linspace(3.0, 2.0, steps + 1)
    omega = np.linspace(0.0, 7.0, steps + 1)
    obs = np.stack([np.cos(theta), np.sin(theta), omega], axis=1)
    return SimpleNamespace(
        obs=obs[:-1],
        next_obs=obs[1:],
        action=np.full((steps, 1), 0.5),
        reward=np.full(steps, -1.5),
        margin=omega[1:, None] - 6.0,
    )


def test_video_reads_back_as_written(tmp_path):
    path = tmp_path / "new" / "seed_0.mp4"
    write_video(path, (grey(20 * i) for i in range(9)), fps=12.5)
    frames, fps, line = read_back(path)
    assert frames.shape == (9, 32, 48, 3)
    assert fps == 12.5
    assert "h264" in line and "yuv420p" in line
    levels = frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 20 * np.arange(9), atol=4)
    assert [p.name for p in path.parent.iterdir()] == ["seed_0.mp4"]


def test_odd_sizes_are_made_even(tmp_path):
    write_video(tmp_path / "a.mp4", [grey(80, 31, 33)] * 3, fps=10)
    frames, _, _ = read_back(tmp_path / "a.mp4")
    assert frames.shape == (3, 32, 34, 3)
    np.testing.assert_allclose(frames, 80, atol=4)  # no black edge


def test_ffmpeg_is_gone_when_the_video_is_written(tmp_path, monkeypatch):
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            assert "preexec_fn" not in kwargs  # would fork a process that runs JAX
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    threads = threading.active_count()
    write_video(tmp_path / "a.mp4", [grey(0)] * 2, fps=10)
    assert [process.returncode for process in started] == [0]
    assert all(process.stdin.closed for process in started)
    assert threading.active_count() == threads


def test_a_failure_half_way_leaves_the_old_video(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, [grey(10)], fps=10)
    before = path.read_bytes()

    def broken():
        yield grey(0)
        raise RuntimeError("the renderer died")

    with pytest.raises(RuntimeError, match="the renderer died"):
        write_video(path, broken(), fps=10)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_failure_of_ffmpeg_is_told_with_its_reason(tmp_path, monkeypatch):
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho 'Unknown encoder' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(script))
    frames = [grey(0, 400, 400)] * 5  # more than a pipe holds
    with pytest.raises(OSError, match="code 3: Unknown encoder"):
        write_video(tmp_path / "a.mp4", frames, fps=10)
    assert list(tmp_path.iterdir()) == [script]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "must not be empty"),
        ([np.zeros((4, 4, 3))], "frame 0 must be uint8"),
        ([np.zeros((4, 4), np.uint8)], "frame 0 must be uint8"),
        ([grey(0), grey(0, 16, 16)], r"frame 1 has shape \[16, 16, 3\]"),
    ],
)
def test_wrong_frames_are_refused(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", frames, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_wrong_path_and_speed_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.mp4"):
        write_video(tmp_path / "a.gif", [grey(0)], fps=10)
    with pytest.raises(ValueError, match="fps must be > 0"):
        write_video(tmp_path / "a.mp4", [grey(0)], fps=0)


class Sketched(Slider):
    """A system that the tests draw."""


def slide(steps):
    obs = np.linspace([0.0, 0.0, 0.5], [2.0, 1.0, 1.5], steps + 1, dtype=np.float32)
    past = np.stack([obs[1:, 2] - 1.0, np.full(steps, -1.0)], axis=1)
    past[0, 1] = 0.5
    return SimpleNamespace(
        obs=obs[:-1],
        next_obs=obs[1:],
        action=np.tile([0.5, -0.5], (steps, 1)),
        reward=np.full(steps, -1.5),
        margin=past,
    )


@pytest.fixture
def calls(monkeypatch):
    """A drawing of `Sketched`, whose arguments are kept."""
    seen = []

    def sketch(system, state, action, *, lines=(), size=400):
        seen.append((system, state, action, lines))
        return grey(0)

    # A registry of its own, so that other tests do not see the drawing.
    draw = functools.singledispatch(rendering.draw)
    draw.register(Sketched, sketch)
    monkeypatch.setattr(rendering, "draw", draw)
    return seen


def test_video_shows_each_state_and_the_counts_so_far(tmp_path, calls):
    record, env = slide(10), Sketched.from_config(dt=0.125)
    episode_video(tmp_path / "a.mp4", record, env, lines=["minmax", "episode 3"])
    frames, fps, _ = read_back(tmp_path / "a.mp4")
    assert frames.shape[0] == 11
    assert fps == 8  # real time
    systems, states, actions, lines = zip(*calls, strict=True)
    assert all(system is env for system in systems)
    every = np.concatenate([record.obs[:1], record.next_obs])
    np.testing.assert_array_equal([[s.x, s.y, s.v] for s in states], every)
    assert [int(state.t) for state in states] == list(range(11))
    assert actions[0] is None
    np.testing.assert_array_equal(actions[1:], record.action)
    assert lines[0] == ("minmax", "episode 3", "return 0.0", "violating steps 0")
    # The disc at the first step; faster than 1 from the sixth on.
    assert lines[5][2:] == ("return -7.5", "violating steps 1")
    assert lines[10][2:] == ("return -15.0", "violating steps 6")


def test_video_of_the_pendulum_is_drawn_in_real_time(tmp_path):
    episode_video(tmp_path / "a.mp4", episode(2), Pendulum.from_config())
    frames, fps, _ = read_back(tmp_path / "a.mp4")
    assert frames.shape == (3, 400, 400, 3)
    assert fps == 20
    assert np.ptp(frames[0]) > 100  # something is drawn
    assert np.abs(frames[0].astype(int) - frames[2]).max() > 50  # and it moves


def test_a_system_without_a_drawing_is_refused(tmp_path):
    with pytest.raises(NotImplementedError, match="no drawing of Slider"):
        episode_video(tmp_path / "a.mp4", slide(2), Slider.from_config())
    assert list(tmp_path.iterdir()) == []


def test_an_empty_episode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one step"):
        episode_video(tmp_path / "a.mp4", episode(0), Pendulum.from_config())
