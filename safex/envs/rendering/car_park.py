"""Drawing of the car park: the road from the side, the goal, the wall, the car."""

import math
from collections.abc import Sequence

import numpy as np

from safex.envs.car_park import CarPark, CarParkState
from safex.envs.rendering.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAPER,
    RED,
    ROSE,
    Canvas,
    Colour,
    draw,
    require_finite,
)

_GROUND = 0.62  # height of the road from the top of the frame
_VIEW = (-1.0, 1.0)  # shown: so far behind the start, and so far past the wall [m]
_LENGTH = 0.8  # of the car, whose nose is its position [m]


@draw.register
def draw_car_park(
    system: CarPark,
    state: CarParkState,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    """Draws the car park, red while the nose of the car is past the wall."""
    position, speed = float(state.p), float(state.v)
    require_finite(p=position, v=speed)
    params = system.params
    limit, goal = float(params.max_position), float(params.goal)
    violation = position > limit
    scale = 0.92 / (_VIEW[1] + limit - _VIEW[0])

    def place(p: float) -> float:
        return 0.04 + scale * (p - _VIEW[0])

    canvas = Canvas(size)
    wall, end = place(limit), 0.96
    top = _GROUND - 0.3
    canvas.polygon([(wall, top), (end, top), (end, _GROUND), (wall, _GROUND)], ROSE)
    canvas.line((wall, top), (wall, _GROUND), RED, 0.006)
    canvas.line((0.04, _GROUND + 0.005), (0.96, _GROUND + 0.005), GREY, 0.01)
    for metre in range(math.ceil(_VIEW[0]), math.floor(limit + _VIEW[1]) + 1):
        mark = place(metre)
        canvas.line((mark, _GROUND), (mark, _GROUND + 0.03), GREY, 0.005)
    tolerance = float(params.goal_tolerance)
    left, right = place(goal - tolerance), place(goal + tolerance)
    canvas.box(left, _GROUND + 0.012, right - left, 0.03, GREEN)
    nose = place(position)
    _draw_car(canvas, nose, scale * _LENGTH, RED if violation else BLUE)
    push = 0.0 if action is None else float(np.clip(action[0], -1.0, 1.0))
    start = nose - 0.5 * scale * _LENGTH
    canvas.arrow((start, 0.47), (start + 0.16 * push, 0.47), ORANGE)
    canvas.gauge(max(position, 0.0) / limit)
    caption = f"position {position:.2f} / {limit:.2f} m"
    return canvas.frame(caption, int(state.t), violation=violation, lines=lines)


def _draw_car(canvas: Canvas, nose: float, length: float, colour: Colour) -> None:
    """Draws a car from the side, its nose to the right."""
    back, wheel = nose - length, 0.17 * length
    floor = _GROUND - wheel
    roof = [(0.12, 0.0), (0.28, 0.3), (0.62, 0.3), (0.8, 0.0)]
    hood = floor - 0.26 * length
    canvas.polygon([(back + x * length, hood - y * length) for x, y in roof], colour)
    canvas.box(back, hood - 0.01, length, 0.3 * length, colour)
    for along in (0.24, 0.76):
        centre = (back + along * length, _GROUND - wheel)
        canvas.circle(centre, wheel, INK)
        canvas.circle(centre, 0.4 * wheel, PAPER)
