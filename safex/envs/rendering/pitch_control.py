"""Drawing of the pitch: an aircraft from the side, its target and its limit."""

import math
from collections.abc import Sequence

import numpy as np

from safex.envs.pitch_control import PitchControl, PitchControlState
from safex.envs.rendering.canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    ROSE,
    Canvas,
    Colour,
    Point,
    draw,
    require_finite,
)

_CENTRE = (0.5, 0.52)
_REACH = 0.44  # length of the rays of angles
_STRETCH = 2.0  # angles are drawn so much larger, or nothing could be seen
_ELEVATOR = 0.7  # angle at which the elevator is drawn at action 1
_BODY = 0.27  # half of the fuselage


@draw.register
def draw_pitch_control(
    system: PitchControl,
    state: PitchControlState,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    """Draws the aircraft, red while it pitches past its limit.

    The nose is to the right. All angles are drawn twice as large as they are; the
    elevator at the tail shows the last action.
    """
    theta = float(state.theta)
    require_finite(theta=theta)
    limit, target = float(system.params.max_angle), float(system.params.target_angle)
    violation = theta > limit
    canvas = Canvas(size)
    fan = np.linspace(_STRETCH * limit, max(_STRETCH * limit, 0.5 * math.pi), 40)
    canvas.polygon([_CENTRE, *(_point(angle, _REACH) for angle in fan)], ROSE)
    canvas.line((0.06, _CENTRE[1]), (0.94, _CENTRE[1]), FAINT, 0.005)
    canvas.line(_CENTRE, _point(_STRETCH * limit, _REACH), RED, 0.006)
    canvas.circle(_point(_STRETCH * target, _REACH + 0.02), 0.013, GREEN)
    push = 0.0 if action is None else float(np.clip(action[0], -1.0, 1.0))
    _draw_aircraft(
        canvas, _STRETCH * theta, _ELEVATOR * push, RED if violation else BLUE
    )
    caption = f"pitch {theta:+.3f} / {limit:+.3f} rad"
    return canvas.frame(caption, int(state.t), violation=violation, lines=lines)


def _draw_aircraft(
    canvas: Canvas, pitch: float, elevator: float, colour: Colour
) -> None:
    """Draws the fuselage, its fin, wing and elevator."""

    def place(along: float, above: float) -> Point:
        return _point(pitch, along * _BODY, above * _BODY)

    bend = np.linspace(-0.5 * math.pi, 0.5 * math.pi, 24)
    nose = [(0.72 + 0.28 * math.cos(b), 0.13 * math.sin(b)) for b in bend]
    hull = [*nose, (-0.75, 0.13), (-1.0, 0.07), (-0.98, 0.0)]
    canvas.polygon([place(*p) for p in hull], colour)
    fin = [(-0.68, 0.1), (-0.9, 0.46), (-1.04, 0.46), (-0.99, 0.04)]
    canvas.polygon([place(*p) for p in fin], colour)
    canvas.polygon(
        [place(*p) for p in [(0.2, -0.02), (-0.22, -0.1), (-0.3, -0.06), (0.1, 0.04)]],
        INK,
    )
    hinge = (-0.92, 0.03)
    end = (hinge[0] - 0.3 * math.cos(elevator), hinge[1] - 0.3 * math.sin(-elevator))
    canvas.line(place(*hinge), place(*end), ORANGE, 0.016)
    canvas.circle(place(*hinge), 0.012, GREY)
    canvas.circle(place(0.74, 0.05), 0.014, INK)


def _point(angle: float, along: float, above: float = 0.0) -> Point:
    """Place at distances along and above the ray that leaves the centre at an angle."""
    x = math.cos(angle) * along - math.sin(angle) * above
    y = math.sin(angle) * along + math.cos(angle) * above
    return _CENTRE[0] + x, _CENTRE[1] - y
