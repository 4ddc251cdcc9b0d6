"""Drawing of the car from above: its box, the goal pose, wheels and throttle."""

import math
from collections.abc import Sequence

import numpy as np

from safex.envs.rc_car import RCCar, RCCarState
from safex.envs.rendering.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    RED,
    ROSE,
    Canvas,
    Point,
    draw,
    require_finite,
)

_AROUND = 0.35  # how much is shown around the box [m]
_BODY = (0.44, 0.22)  # length and width of the body [m]


@draw.register
def draw_rc_car(
    system: RCCar,
    state: RCCarState,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    """Draws the car from above, red while it is outside of its box.

    Its front wheels stand as the last action steered, and an arrow is its throttle.
    """
    x, y, theta = float(state.x), float(state.y), float(state.theta)
    require_finite(x=x, y=y, theta=theta)
    p = system.params
    low = float(p.x_low), float(p.y_low)
    high = float(p.x_high), float(p.y_high)
    middle = 0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1])
    width = max(high[0] - low[0], high[1] - low[1])
    scale = 1.0 / (width + 2 * _AROUND)

    def place(x: float, y: float) -> Point:
        return 0.5 + scale * (x - middle[0]), 0.47 - scale * (y - middle[1])

    outside = [abs(x - middle[0]), abs(y - middle[1])]
    limits = [float(limit) for limit in system.limits]
    violation = outside[0] > limits[0] or outside[1] > limits[1]
    canvas = Canvas(size)
    canvas.polygon([(0.0, 0.0), (1.0, 0.0), (1.0, 0.86), (0.0, 0.86)], ROSE)
    corners = [low, (high[0], low[1]), high, (low[0], high[1])]
    canvas.polygon([place(*corner) for corner in corners], PAPER)
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        canvas.line(place(*start), place(*end), RED, 0.005)
    _draw_goal(canvas, place(float(p.goal[0]), float(p.goal[1])), p.goal, scale)
    steer, throttle = (0.0, 0.0) if action is None else np.clip(action, -1.0, 1.0)
    colour = RED if violation else BLUE

    def on_car(along: float, aside: float) -> Point:
        return place(
            x + along * math.cos(theta) - aside * math.sin(theta),
            y + along * math.sin(theta) + aside * math.cos(theta),
        )

    front, rear = float(p.front_length), -float(p.rear_length)
    half_length, half_width = 0.5 * _BODY[0], 0.5 * _BODY[1]
    for along, angle in ((front, float(steer) * float(p.max_steer)), (rear, 0.0)):
        reach = 0.06 * math.cos(angle), 0.06 * math.sin(angle)
        for aside in (-half_width, half_width):
            ends = [on_car(along + s * reach[0], aside + s * reach[1]) for s in (-1, 1)]
            canvas.line(ends[0], ends[1], INK, 0.05 * scale)
    middle_of_body = 0.5 * (front + rear)
    nose, tail = middle_of_body + half_length, middle_of_body - half_length
    body = [
        (nose, -0.6 * half_width),
        (nose, 0.6 * half_width),
        (front, half_width),
        (tail, half_width),
        (tail, -half_width),
        (front, -half_width),
    ]
    canvas.polygon([on_car(*corner) for corner in body], colour)
    glass = [(0.08, 0.07), (0.08, -0.07), (0.0, -0.085), (0.0, 0.085)]
    canvas.polygon([on_car(*corner) for corner in glass], PAPER)
    bumper = nose if throttle > 0 else tail
    pushed = bumper + 0.35 * float(throttle)
    canvas.arrow(on_car(bumper, 0.0), on_car(pushed, 0.0), ORANGE)
    past = max(outside[0] - limits[0], outside[1] - limits[1])
    words = "outside by" if violation else "to the box"
    caption = f"{words} {abs(past):.2f} m"
    return canvas.frame(caption, int(state.t), violation=violation, lines=lines)


def _draw_goal(canvas: Canvas, centre: Point, goal: object, scale: float) -> None:
    """Draws the pose to stop at as a ring and a short line ahead."""
    heading = float(np.asarray(goal)[2])
    canvas.ring(centre, 0.1 * scale, GREEN, 0.008)
    ahead = 0.26 * scale * math.cos(heading), -0.26 * scale * math.sin(heading)
    canvas.arrow(centre, (centre[0] + ahead[0], centre[1] + ahead[1]), GREEN)
