"""Videos of what an agent really did, one frame per step."""

import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from safex.errors import ContractError

if TYPE_CHECKING:
    from safex.training.account import EpisodeRecord

Frame = npt.NDArray[np.uint8]


def write_video(path: str | Path, frames: Iterable[Frame], fps: float) -> None:
    """Writes an H.264 video (yuv420p, plays everywhere) or leaves nothing behind.

    The video is written beside `path` and renamed when complete, so that a killed run
    never leaves half a file under the final name. yuv420p halves the colour planes:
    odd heights and widths are made even by repeating the last row or column.

    Args:
      path: ends in `.mp4`; its folder is made if missing.
      frames: uint8 images `[height, width, 3]`, all of one shape; may be a generator.
      fps: frames per second.

    Raises:
      ValueError: not an `.mp4` path, no frame, a frame of another type or shape, or an
        `fps` that is not positive.
      OSError: ffmpeg failed; the message is its own.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise ValueError(f"path must end in .mp4, got {path}")
    if not fps > 0:
        raise ValueError(f"fps must be > 0, got {fps}")
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("frames must not be empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        _encode(partial, itertools.chain([first], checked), first.shape, fps)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def episode_video(
    path: str | Path, record: "EpisodeRecord", env: Any, *, lines: Sequence[str] = ()
) -> None:
    """Writes one episode: the first state, then one frame per step, in real time.

    Args:
      path: ends in `.mp4`.
      record: the episode, with T >= 1 steps.
      env: the system, of a type that `envs.rendering.draw` knows.
      lines: what stands above every frame, such as the method and the episode; step,
        return and violating steps so far follow below them.

    Raises:
      NotImplementedError: nobody has registered a drawing of this system.
      ValueError: the episode is empty, or as `write_video`.
    """
    if len(record.reward) == 0:
        raise ValueError("record must hold at least one step")
    frames = _episode_frames(record, env, tuple(lines))
    write_video(path, frames, 1.0 / float(env.params.dt))


def repeated_video(
    path: str | Path, record: "EpisodeRecord", env: Any, seed: int
) -> None:
    """Writes one episode of a foreign task: it is played again from seed and actions.

    Args:
      path: ends in `.mp4`.
      record: the episode, with T >= 1 steps.
      env: the task, whose `make_env("rgb_array")` draws itself.
      seed: that began the episode.

    Raises:
      ContractError: the task does not come to the same rewards again.
      ConfigError: this machine cannot draw it.
      ValueError: as `write_video`.
    """
    drawn = env.make_env(render_mode="rgb_array")
    try:
        frames = _repeated_frames(record, drawn, seed)
        write_video(path, frames, float(drawn.metadata["render_fps"]))
    finally:
        drawn.close()


def _repeated_frames(record: "EpisodeRecord", drawn: Any, seed: int) -> Iterator[Frame]:
    drawn.reset(seed=seed)
    yield drawn.render()
    for t, (action, reward) in enumerate(
        zip(record.action, record.reward, strict=True)
    ):
        found = drawn.step(action)[1]
        # The digits of another machine may differ in the last place.
        if not np.isclose(found, reward, rtol=1e-3, atol=1e-3):
            raise ContractError(
                f"{drawn.name} does not come to the same episode again from seed "
                f"{seed} and its actions: step {t} gives {found:.4g}, it gave "
                f"{reward:.4g}"
            )
        yield drawn.render()


def _episode_frames(
    record: "EpisodeRecord", env: Any, lines: tuple[str, ...]
) -> Iterator[Frame]:
    import jax  # noqa: PLC0415, whoever has a system has loaded it

    from safex.envs.rendering import draw  # noqa: PLC0415, draws with pygame

    obs = np.concatenate([record.obs[:1], record.next_obs])
    states = jax.device_get(jax.jit(jax.vmap(env.state_from_obs))(obs))
    returns = np.concatenate([[0.0], np.cumsum(record.reward)])
    violating = (np.asarray(record.margin) > 0).any(1)
    violations = np.concatenate([[0], np.cumsum(violating)])
    steps = len(record.reward)
    for t in range(steps + 1):
        state = jax.tree.map(lambda leaf, t=t: leaf[t], states)
        # An observation shows no counter.
        state = state._replace(t=np.int32(t)) if hasattr(state, "t") else state
        yield draw(
            env,
            state,
            record.action[t - 1] if t > 0 else None,
            lines=(
                *lines,
                f"return {returns[t]:.1f}",
                f"violating steps {violations[t]}",
            ),
        )


def _encode(
    path: Path, frames: Iterable[Frame], shape: tuple[int, ...], fps: float
) -> None:
    """Pipes frames `[height, width, 3]` into ffmpeg.

    imageio's own writer forks this process to start ffmpeg, which JAX, being
    multithreaded, rightly warns may deadlock; a plain `Popen` does not.
    """
    # Imported here: only runs with a video need it.
    import imageio_ffmpeg  # type: ignore[import-untyped]  # noqa: PLC0415

    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}"]
    target = ["-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source]
    command += ["-r", str(fps), "-i", "-", *target, "-movflags", "+faststart"]
    # Messages go to a file: a full pipe that nobody reads would stop ffmpeg.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, str(path)], stdin=subprocess.PIPE, stderr=log
        )
        assert process.stdin is not None
        try:
            # A broken pipe is ffmpeg's failure, whose reason is in the log.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                for frame in frames:
                    process.stdin.write(frame.tobytes())
        finally:
            code = process.wait()
        if code != 0:
            log.seek(0)
            reason = log.read().decode(errors="replace").strip()
            raise OSError(f"ffmpeg failed with code {code}: {reason}")


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape = None
    for index, frame in enumerate(frames):
        image = np.asarray(frame)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"frame {index} must be uint8 [height, width, 3], got "
                f"{image.dtype} {list(image.shape)}"
            )
        shape = shape or image.shape
        if image.shape != shape:
            raise ValueError(
                f"frame {index} has shape {list(image.shape)}, the first one "
                f"{list(shape)}"
            )
        height, width = image.shape[:2]
        yield np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
