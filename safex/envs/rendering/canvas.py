"""What all drawings share: the dispatch, the canvas, its texts, and the window.

A frame is drawn `_OVERSAMPLING` times larger and scaled down, which smooths every edge;
text is set at the final size.
"""

import functools
import math
import os
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

Colour = tuple[int, int, int]
Point = tuple[float, float]

RED: Colour = (214, 39, 40)
PAPER: Colour = (250, 250, 248)
INK: Colour = (38, 43, 51)
FAINT: Colour = (222, 224, 226)
GREY: Colour = (128, 134, 142)
BLUE: Colour = (52, 101, 164)
ORANGE: Colour = (240, 140, 30)
GREEN: Colour = (70, 160, 90)
ROSE: Colour = (246, 218, 216)

_OVERSAMPLING = 4  # a power of two, or pygame's scaling darkens flat colours
_MIN_SIZE = 64
_MIN_SIZE_FOR_TEXT = 200  # below, letters are unreadable

# Lengths in units of the frame.
_MARGIN = 0.04
_TEXT = 0.042
_GAUGE = (_MARGIN, 0.945, 1.0 - 2 * _MARGIN, 0.02)  # left, top, width, height
_LABEL = (0.70, _MARGIN, 0.30 - _MARGIN, 0.065)
_GAUGE_END = 1.5  # right end of the gauge in units of the limit


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
        "safex.envs.rendering.draw.register, or do without (render=false in a launch, "
        "render_mode=None in gymnasium)"
    )


class Canvas:
    """A square to draw on.

    Places are (right, down) and lengths in units of the frame, so 1 is its width.
    """

    def __init__(self, size: int) -> None:
        """An empty sheet.

        Args:
          size: width and height of the frame [pixels]; below 200 it carries no text.

        Raises:
          ValueError: the frame is too small to show anything.
        """
        if size < _MIN_SIZE:
            raise ValueError(f"size must be >= {_MIN_SIZE} pixels, got {size}")
        self._pygame = import_pygame()
        self._size, self._unit = size, size * _OVERSAMPLING
        self._surface = self._pygame.Surface((self._unit,) * 2, depth=32)
        self._surface.fill(PAPER)

    def circle(self, centre: Point, radius: float, colour: Colour) -> None:
        """Draws a disc."""
        self._pygame.draw.circle(
            self._surface, colour, self._pixel(centre), radius * self._unit
        )

    def ring(
        self, centre: Point, radius: float, colour: Colour, width: float = 0.005
    ) -> None:
        """Draws a circle line."""
        line = max(1, round(width * self._unit))
        self._pygame.draw.circle(
            self._surface, colour, self._pixel(centre), radius * self._unit, line
        )

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Draws a filled polygon."""
        self._pygame.draw.polygon(
            self._surface, colour, [self._pixel(point) for point in points]
        )

    def line(self, start: Point, end: Point, colour: Colour, width: float) -> None:
        """Draws a line of a width, with ends cut straight."""
        length = math.dist(start, end)
        if length == 0:
            return
        right = 0.5 * width * (start[1] - end[1]) / length
        down = 0.5 * width * (end[0] - start[0]) / length
        ends = ((start, 1), (end, 1), (end, -1), (start, -1))
        self.polygon([(p[0] + s * right, p[1] + s * down) for p, s in ends], colour)

    def arrow(self, start: Point, end: Point, colour: Colour) -> None:
        """Draws an arrow whose tip is at `end`; too short a one is left out."""
        length = math.dist(start, end)
        if length < 0.01:
            return
        ahead = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
        head = min(0.035, length)
        neck = (end[0] - head * ahead[0], end[1] - head * ahead[1])
        self.line(start, neck, colour, 0.016)
        aside = (-0.025 * ahead[1], 0.025 * ahead[0])
        barbs = [(neck[0] + s * aside[0], neck[1] + s * aside[1]) for s in (1, -1)]
        self.polygon([end, *barbs], colour)

    def box(
        self, left: float, top: float, width: float, height: float, colour: Colour
    ) -> None:
        """Draws a box with round corners."""
        left, top, width, height = (
            round(value * self._unit) for value in (left, top, width, height)
        )
        self._pygame.draw.rect(
            self._surface,
            colour,
            (left, top, width, height),
            0,
            int(min(width, height) // 2),
        )

    def gauge(self, share: float) -> None:
        """Draws a bar along the foot, `share` in units of the limit, a mark at 1."""
        left, top, width, height = _GAUGE
        filled = width * min(share / _GAUGE_END, 1.0)
        self.box(*_GAUGE, FAINT)
        self.box(left, top, filled, height, RED if share > 1 else BLUE)
        mark = left + width / _GAUGE_END
        self.box(mark - 0.003, top - height / 2, 0.006, 2 * height, INK)

    def frame(
        self,
        caption: str,
        step: int | None,
        *,
        violation: bool,
        lines: Sequence[str] = (),
    ) -> np.ndarray:
        """Finishes the drawing.

        Args:
          caption: what the limit is about and how close it is, lower left.
          step: steps taken, lower right; None leaves it out.
          violation: the limit is passed, so the frame warns.
          lines: overlay text for the upper left corner.

        Returns:
          `[size, size, 3]` uint8 frame.
        """
        if violation:
            self.box(*_LABEL, RED)
        frame = self._pygame.transform.smoothscale(self._surface, (self._size,) * 2)
        if self._size >= _MIN_SIZE_FOR_TEXT:
            captions = caption, "" if step is None else f"step {step}"
            _write(self._pygame, frame, captions, violation, lines)
        pixels: np.ndarray = self._pygame.surfarray.array3d(frame)
        return pixels.transpose(1, 0, 2).copy()

    def _pixel(self, point: Point) -> Point:
        return point[0] * self._unit, point[1] * self._unit


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
        pygame = import_pygame()
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
            import_pygame().display.quit()
            self._screen = None


def import_pygame() -> ModuleType:
    """Imports pygame without its greeting and its dependency's deprecation notice."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pkg_resources.*")
        import pygame  # noqa: PLC0415
        import pygame.pkgdata  # noqa: PLC0415
    return pygame


def require_finite(**values: float) -> None:
    """Raises ValueError where a value to be drawn is not a finite number."""
    if not all(math.isfinite(value) for value in values.values()):
        named = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"cannot draw {named}: not finite")


def _write(
    pygame: ModuleType,
    frame: Any,
    captions: tuple[str, str],
    violation: bool,
    lines: Sequence[str],
) -> None:
    """Writes the overlay, the caption, the step and the warning."""
    pygame.font.init()
    unit = frame.get_width()
    font = pygame.font.Font(None, round(1.35 * _TEXT * unit))
    margin, spacing = round(_MARGIN * unit), round(1.25 * _TEXT * unit)
    for row, text in enumerate(lines):
        image = font.render(text, True, INK)
        frame.blit(image, (margin, margin + row * spacing))
    caption, step = captions
    baseline = round((_GAUGE[1] - 0.018) * unit)
    image = font.render(caption, True, RED if violation else INK)
    frame.blit(image, image.get_rect(bottomleft=(margin, baseline)))
    image = font.render(step, True, GREY)
    frame.blit(image, image.get_rect(bottomright=(unit - margin, baseline)))
    if violation:
        left, top, width, height = _LABEL
        centre = (round((left + width / 2) * unit), round((top + height / 2) * unit))
        image = font.render("OVER LIMIT", True, PAPER)
        frame.blit(image, image.get_rect(center=centre))
