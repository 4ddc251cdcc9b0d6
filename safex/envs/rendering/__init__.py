"""Drawing of the systems with pygame, which is imported on the first frame only.

One file a system; what they share is in `canvas`. Frames are drawn on surfaces in
memory: no display is needed for an `rgb_array`.
"""

from safex.envs.rendering.canvas import RED, Window, draw
from safex.envs.rendering.car_park import draw_car_park
from safex.envs.rendering.cartpole import draw_cartpole
from safex.envs.rendering.pendulum import draw_pendulum, render_frame
from safex.envs.rendering.pitch_control import draw_pitch_control
from safex.envs.rendering.point_goal import draw_point_goal
from safex.envs.rendering.rc_car import draw_rc_car

# Importing a drawing registers it with `draw`.
__all__ = [
    "RED",
    "Window",
    "draw",
    "draw_car_park",
    "draw_cartpole",
    "draw_pendulum",
    "draw_pitch_control",
    "draw_point_goal",
    "draw_rc_car",
    "render_frame",
]
