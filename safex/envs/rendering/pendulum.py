"""Drawing of the pendulum: the rod, its torque, and a gauge of its speed."""

import math
from collections.abc import Sequence

import numpy as np

from safex.envs.pendulum import Pendulum, PendulumState
from safex.envs.rendering.canvas import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    Canvas,
    Colour,
    Point,
    draw,
    require_finite,
)

# Lengths in units of the frame.
_PIVOT = (0.5, 0.535)
_ROD = 0.28
_HALF_WIDTH = 0.03
_FULL_SWEEP = math.radians(110.0)  # arc of the largest torque


@draw.register
def draw_pendulum(
    system: Pendulum,
    state: PendulumState,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    """Draws a pendulum as `draw` says."""
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
    require_finite(theta=theta, omega=omega, torque=torque)
    if not speed_limit > 0:
        raise ValueError(f"speed_limit must be > 0, got {speed_limit}")
    canvas = Canvas(size)
    violation = abs(omega) > speed_limit
    canvas.ring(_PIVOT, _ROD, FAINT)
    canvas.circle(_point(0.0, _ROD), 0.013, GREEN)
    _draw_torque(canvas, theta, torque / max_torque)
    _draw_rod(canvas, theta, RED if violation else BLUE)
    canvas.gauge(abs(omega) / speed_limit)
    caption = f"speed {abs(omega):.2f} / {speed_limit:.2f} rad/s"
    return canvas.frame(caption, step, violation=violation, lines=lines)


def _draw_torque(canvas: Canvas, theta: float, share: float) -> None:
    """Draws an arrow from the rod, its arc the share of the largest torque."""
    if abs(share) < 0.02:
        return
    radius, half = 0.46 * _ROD, 0.0085
    # The rod is drawn over the first part of the arc.
    hidden = math.copysign(math.asin(_HALF_WIDTH / radius), share)
    end = theta + hidden + _FULL_SWEEP * min(max(share, -1.0), 1.0)
    angles = np.linspace(theta, end, 48)
    outer = [_point(angle, radius + half) for angle in angles]
    inner = [_point(angle, radius - half) for angle in angles[::-1]]
    canvas.polygon(outer + inner, ORANGE)
    head = [
        _point(end, radius + 3.2 * half),
        _point(end + math.copysign(0.24, share), radius),
        _point(end, radius - 3.2 * half),
    ]
    canvas.polygon(head, ORANGE)


def _draw_rod(canvas: Canvas, theta: float, colour: Colour) -> None:
    """Draws the rod, round at both ends, and its pivot."""
    corners = ((0.0, -1), (0.0, 1), (_ROD, 1), (_ROD, -1))
    outline = [_point(theta, along, side * _HALF_WIDTH) for along, side in corners]
    canvas.polygon(outline, colour)
    for along in (0.0, _ROD):
        canvas.circle(_point(theta, along), _HALF_WIDTH, colour)
    canvas.circle(_PIVOT, 0.013, INK)


def _point(angle: float, along: float, aside: float = 0.0) -> Point:
    """Place at distances along and beside the ray that leaves the pivot at an angle."""
    x = -math.sin(angle) * along + math.cos(angle) * aside
    y = math.cos(angle) * along + math.sin(angle) * aside
    return _PIVOT[0] + x, _PIVOT[1] - y
