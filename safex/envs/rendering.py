"""Drawing of the systems with pygame, which is imported on the first frame only.

Frames are drawn on surfaces in memory: no display is needed for an `rgb_array`. A frame
is drawn `_OVERSAMPLING` times larger and scaled down, which smooths every edge; text is
set at the final size.
"""

import functools
import math
import os
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from safex.envs.pendulum import Pendulum, PendulumState

Colour = tuple[int, int, int]

RED: Colour = (214, 39, 40)
_PAPER: Colour = (250, 250, 248)
_INK: Colour = (38, 43, 51)
_FAINT: Colour = (222, 224, 226)
_GREY: Colour = (128, 134, 142)
_BLUE: Colour = (52, 101, 164)
_ORANGE: Colour = (240, 140, 30)
_GREEN: Colour = (70, 160, 90)

_OVERSAMPLING = 4  # a power of two, or pygame's scaling darkens flat colours
_MIN_SIZE = 64
_MIN_SIZE_FOR_TEXT = 200  # below, letters are unreadable

# Lengths in units of the frame.
_PIVOT = (0.5, 0.535)
_ROD = 0.28
_HALF_WIDTH = 0.03
_MARGIN = 0.04
_TEXT = 0.042
_GAUGE = (_MARGIN, 0.945, 1.0 - 2 * _MARGIN, 0.02)  # left, top, width, height
_LABEL = (0.70, _MARGIN, 0.30 - _MARGIN, 0.065)

_GAUGE_END = 1.5  # right end of the gauge in units of the limit
_FULL_SWEEP = math.radians(110.0)  # arc of the largest torque


@functools.singledispatch
def draw(
    system: Any,
    state: Any,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    """Draws a system; register another one with `@draw.register`.

    Args:
      system: the system, whose type picks the drawing.
      state: its state.
      action: `[A]` last action in the normalised box, None just after a reset.
      lines: overlay text.
      size: width and height [pixels].

    Returns:
      `[size, size, 3]` uint8 frame.

    Raises:
      NotImplementedError: nobody has registered a drawing of this type.
    """
    raise NotImplementedError(
        f"no drawing of {type(system).__name__}: register one with "
        "safex.envs.rendering.draw.register, or use render_mode=None"
    )


@draw.register
def _draw_pendulum(
    system: Pendulum,
    state: PendulumState,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    max_torque = float(system.params.max_torque)
    push = 0.0 if action is None else float(np.clip(action[0], -1.0, 1.0))
    return render_frame(
        float(state.theta),
        float(state.omega),
        max_torque * push,
        float(system.params.speed_threshold),
        lines=lines,
        size=size,
        step=int(state.t),
        max_torque=max_torque,
    )


def render_frame(
    theta: float,
    omega: float,
    torque: float,
    speed_limit: float,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
    step: int | None = None,
    max_torque: float = 2.0,
) -> np.ndarray:
    """Draws the pendulum, red while it is past its speed limit.

    The pivot is in the middle, theta = 0 points up and positive angles and torques turn
    counter-clockwise, as in gymnasium's `Pendulum-v1`.

    Args:
      theta: angle from upright [rad].
      omega: angular speed [rad/s].
      torque: torque of the last step [N m], drawn as an arrow that starts at the rod.
      speed_limit: limit of |omega| [rad/s].
      lines: overlay text for the upper left corner.
      size: width and height [pixels]; below 200 the text is left out.
      step: steps taken, written where given.
      max_torque: torque of the longest arrow [N m].

    Returns:
      `[size, size, 3]` uint8 frame.

    Raises:
      ValueError: the frame is too small, a value is not finite, or no limit is > 0.
    """
    if size < _MIN_SIZE:
        raise ValueError(f"size must be >= {_MIN_SIZE} pixels, got {size}")
    if not np.all(np.isfinite([theta, omega, torque])):
        raise ValueError(
            f"cannot draw theta={theta}, omega={omega}, torque={torque}: not finite"
        )
    if not speed_limit > 0:
        raise ValueError(f"speed_limit must be > 0, got {speed_limit}")
    pygame = _import_pygame()
    violation = abs(omega) > speed_limit
    large = pygame.Surface((size * _OVERSAMPLING,) * 2, depth=32)
    _draw_background(pygame, large)
    _draw_torque(pygame, large, theta, torque / max_torque)
    _draw_rod(pygame, large, theta, RED if violation else _BLUE)
    _draw_gauge(pygame, large, abs(omega) / speed_limit)
    if violation:
        _draw_box(pygame, large, _LABEL, RED)
    frame = pygame.transform.smoothscale(large, (size, size))
    if size >= _MIN_SIZE_FOR_TEXT:
        _write(pygame, frame, _captions(omega, speed_limit, step), violation, lines)
    return pygame.surfarray.array3d(frame).transpose(1, 0, 2).copy()


class Window:
    """A window on the screen that shows frames at a steady pace."""

    def __init__(self, title: str, fps: int) -> None:
        """Opens nothing yet.

        Args:
          title: title of the window.
          fps: frames per second that `show` waits for.
        """
        self._title, self._fps = title, fps
        self._screen: Any = None
        self._clock: Any = None

    def show(self, frame: np.ndarray) -> None:
        """Shows a frame `[height, width, 3]`, opening the window where needed."""
        pygame = _import_pygame()
        size = (frame.shape[1], frame.shape[0])
        if self._screen is None:
            pygame.display.init()
            self._screen = pygame.display.set_mode(size)
            pygame.display.set_caption(self._title)
            self._clock = pygame.time.Clock()
        image = pygame.image.frombuffer(frame.tobytes(), size, "RGB")
        self._screen.blit(image, (0, 0))
        pygame.event.pump()  # or the window system calls the program unresponsive
        self._clock.tick(self._fps)
        pygame.display.flip()

    def close(self) -> None:
        """Closes the window; closing it again does nothing."""
        if self._screen is not None:
            _import_pygame().display.quit()
            self._screen = None


def _import_pygame() -> ModuleType:
    """Imports pygame without its greeting and its dependency's deprecation notice."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pkg_resources.*")
        import pygame  # noqa: PLC0415
        import pygame.pkgdata  # noqa: PLC0415
    return pygame


def _draw_background(pygame: ModuleType, surface: Any) -> None:
    """Draws the paper, the circle the tip moves on and the target on top of it."""
    unit = surface.get_width()
    surface.fill(_PAPER)
    line = max(1, round(0.005 * unit))
    pygame.draw.circle(surface, _FAINT, _point(unit, 0.0, 0.0), _ROD * unit, line)
    pygame.draw.circle(surface, _GREEN, _point(unit, 0.0, _ROD), 0.013 * unit)


def _draw_torque(pygame: ModuleType, surface: Any, theta: float, share: float) -> None:
    """Draws an arrow from the rod, its arc the share of the largest torque."""
    if abs(share) < 0.02:
        return
    unit = surface.get_width()
    radius, half = 0.46 * _ROD, 0.0085
    # The rod is drawn over the first part of the arc.
    hidden = math.copysign(math.asin(_HALF_WIDTH / radius), share)
    end = theta + hidden + _FULL_SWEEP * min(max(share, -1.0), 1.0)
    angles = np.linspace(theta, end, 48)
    outer = [_point(unit, angle, radius + half) for angle in angles]
    inner = [_point(unit, angle, radius - half) for angle in angles[::-1]]
    pygame.draw.polygon(surface, _ORANGE, outer + inner)
    head = [
        _point(unit, end, radius + 3.2 * half),
        _point(unit, end + math.copysign(0.24, share), radius),
        _point(unit, end, radius - 3.2 * half),
    ]
    pygame.draw.polygon(surface, _ORANGE, head)


def _draw_rod(pygame: ModuleType, surface: Any, theta: float, colour: Colour) -> None:
    """Draws the rod, round at both ends, and its pivot."""
    unit = surface.get_width()
    pivot, tip = _point(unit, theta, 0.0), _point(unit, theta, _ROD)
    outline = [
        _point(unit, theta, along, aside)
        for along, aside in (
            (0.0, -_HALF_WIDTH),
            (0.0, _HALF_WIDTH),
            (_ROD, _HALF_WIDTH),
            (_ROD, -_HALF_WIDTH),
        )
    ]
    pygame.draw.polygon(surface, colour, outline)
    for centre in (pivot, tip):
        pygame.draw.circle(surface, colour, centre, _HALF_WIDTH * unit)
    pygame.draw.circle(surface, _INK, pivot, 0.013 * unit)


def _draw_gauge(pygame: ModuleType, surface: Any, share: float) -> None:
    """Draws the speed as a bar, `share` in units of the limit, with a mark at 1."""
    left, top, width, height = _GAUGE
    filled = width * min(share / _GAUGE_END, 1.0)
    _draw_box(pygame, surface, _GAUGE, _FAINT)
    _draw_box(pygame, surface, (left, top, filled, height), RED if share > 1 else _BLUE)
    mark = left + width / _GAUGE_END
    _draw_box(
        pygame, surface, (mark - 0.003, top - height / 2, 0.006, 2 * height), _INK
    )


def _draw_box(
    pygame: ModuleType,
    surface: Any,
    box: tuple[float, float, float, float],
    colour: Colour,
) -> None:
    """Draws a box with round corners, its place in units of the frame."""
    unit = surface.get_width()
    left, top, width, height = (round(value * unit) for value in box)
    radius = min(width, height) // 2
    pygame.draw.rect(surface, colour, (left, top, width, height), 0, radius)


def _captions(omega: float, speed_limit: float, step: int | None) -> tuple[str, str]:
    speed = f"speed {abs(omega):.2f} / {speed_limit:.2f} rad/s"
    return speed, "" if step is None else f"step {step}"


def _write(
    pygame: ModuleType,
    frame: Any,
    captions: tuple[str, str],
    violation: bool,
    lines: Sequence[str],
) -> None:
    """Writes the overlay, the speed, the step and the warning."""
    pygame.font.init()
    unit = frame.get_width()
    font = pygame.font.Font(None, round(1.35 * _TEXT * unit))
    margin, spacing = round(_MARGIN * unit), round(1.25 * _TEXT * unit)
    for row, text in enumerate(lines):
        image = font.render(text, True, _INK)
        frame.blit(image, (margin, margin + row * spacing))
    speed, step = captions
    baseline = round((_GAUGE[1] - 0.018) * unit)
    image = font.render(speed, True, RED if violation else _INK)
    frame.blit(image, image.get_rect(bottomleft=(margin, baseline)))
    image = font.render(step, True, _GREY)
    frame.blit(image, image.get_rect(bottomright=(unit - margin, baseline)))
    if violation:
        left, top, width, height = _LABEL
        centre = (round((left + width / 2) * unit), round((top + height / 2) * unit))
        image = font.render("OVER LIMIT", True, _PAPER)
        frame.blit(image, image.get_rect(center=centre))


def _point(
    unit: int, angle: float, along: float, aside: float = 0.0
) -> tuple[float, float]:
    """Pixel at distances along and beside the ray that leaves the pivot at an angle."""
    x = -math.sin(angle) * along + math.cos(angle) * aside
    y = math.cos(angle) * along + math.sin(angle) * aside
    return (_PIVOT[0] + x) * unit, (_PIVOT[1] - y) * unit
