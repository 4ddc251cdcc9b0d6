"""Drawing of the robot among hazards, from above."""

import math
from collections.abc import Sequence

import numpy as np

from safex.envs.point_goal import PointGoal, PointGoalState
from safex.envs.rendering.canvas import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    PAPER,
    RED,
    ROSE,
    Canvas,
    Point,
    draw,
    require_finite,
)

_AROUND = 0.3  # how much is shown around the arena [m]
_ROBOT = 0.1  # radius of the robot as drawn; its centre is what counts [m]


@draw.register
def draw_point_goal(
    system: PointGoal,
    state: PointGoalState,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    """Draws the map from above, the robot red while its centre is in a hazard.

    The notch shows its heading, the arrow its force.
    """
    x, y, theta = float(state.x), float(state.y), float(state.theta)
    require_finite(x=x, y=y, theta=theta)
    p = system.params
    arena, radius = float(p.arena), float(p.hazard_radius)
    scale = 0.86 / (2 * (arena + _AROUND))
    hazards = np.asarray(p.hazards, np.float64)

    def place(x: float, y: float) -> Point:
        return 0.5 + scale * x, 0.44 - scale * y

    distance = float(np.hypot(*(hazards - [x, y]).T).min())
    violation = distance < radius
    canvas = Canvas(size)
    ends = [(-arena, -arena), (arena, -arena), (arena, arena), (-arena, arena)]
    for start, end in zip(ends, [*ends[1:], ends[0]], strict=True):
        canvas.line(place(*start), place(*end), FAINT, 0.005)
    for hazard in hazards:
        canvas.circle(place(*hazard), scale * radius, ROSE)
        canvas.ring(place(*hazard), scale * radius, RED)
    goal = place(float(state.goal_x), float(state.goal_y))
    canvas.ring(goal, scale * float(p.goal_radius), GREEN, 0.01)
    canvas.circle(goal, 0.01, GREEN)
    ahead = math.cos(theta), math.sin(theta)
    push = 0.0 if action is None else float(np.clip(action[0], -1.0, 1.0))
    reach = math.copysign(_ROBOT, push) + 0.4 * push
    here = place(x, y)
    if push:
        canvas.arrow(here, place(x + reach * ahead[0], y + reach * ahead[1]), ORANGE)
    canvas.circle(here, scale * _ROBOT, RED if violation else BLUE)
    notch = place(x + 0.6 * _ROBOT * ahead[0], y + 0.6 * _ROBOT * ahead[1])
    canvas.circle(notch, 0.3 * scale * _ROBOT, PAPER)
    words = "in a hazard by" if violation else "to the next hazard"
    caption = f"{words} {abs(radius - distance):.2f} m"
    return canvas.frame(caption, int(state.t), violation=violation, lines=lines)
