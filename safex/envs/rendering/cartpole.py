"""Drawing of the cart-pole: rail, limits, cart, pole and force."""

import math
from collections.abc import Sequence

import numpy as np

from safex.envs.cartpole import Cartpole, CartpoleState
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
    draw,
    require_finite,
)

_RAIL = 0.60  # height of the rail from the top of the frame
_SIDE = 0.05  # what is left beside the rail
_CART = (0.11, 0.06)


@draw.register
def draw_cartpole(
    system: Cartpole,
    state: CartpoleState,
    action: np.ndarray | None,
    *,
    lines: Sequence[str] = (),
    size: int = 400,
) -> np.ndarray:
    """Draws the cart-pole, red while the cart is past its limit.

    The rail fills the width; what lies past the limits is shaded. Upright is up, and a
    positive angle leans to the right.
    """
    x, theta = float(state.x), float(state.theta)
    require_finite(x=x, theta=theta)
    limit, rail = float(system.params.slider_limit), float(system.params.rail)
    violation = abs(x) > limit
    scale = (0.5 - _SIDE) / rail
    canvas = Canvas(size)
    length = scale * float(system.params.pole_length)
    _draw_rail(canvas, scale, limit, rail)
    canvas.line((0.5, _RAIL - length), (0.5, _RAIL), FAINT, 0.005)
    canvas.circle((0.5, _RAIL - length), 0.011, GREEN)
    cart = (0.5 + scale * x, _RAIL)
    width, height = _CART
    push = 0.0 if action is None else float(np.clip(action[0], -1.0, 1.0))
    start = (cart[0] + math.copysign(0.5 * width, push), _RAIL)
    canvas.arrow(start, (start[0] + 0.16 * push, start[1]), ORANGE)
    canvas.box(
        cart[0] - width / 2,
        _RAIL - height / 2,
        width,
        height,
        RED if violation else BLUE,
    )
    tip = (cart[0] + length * math.sin(theta), _RAIL - length * math.cos(theta))
    canvas.line(cart, tip, INK, 0.022)
    canvas.circle(tip, 0.011, INK)
    canvas.circle(cart, 0.018, INK)
    canvas.gauge(abs(x) / limit)
    caption = f"slider {abs(x):.2f} / {limit:.2f} m"
    return canvas.frame(caption, int(state.t), violation=violation, lines=lines)


def _draw_rail(canvas: Canvas, scale: float, limit: float, rail: float) -> None:
    """Draws the rail, and what is past its limits."""
    for side in (-1, 1):
        edge, end = 0.5 + side * scale * min(limit, rail), 0.5 + side * scale * rail
        shaded = [(edge, 0.2), (end, 0.2), (end, 0.8), (edge, 0.8)]
        canvas.polygon(shaded, ROSE)
        canvas.line((edge, 0.2), (edge, 0.8), RED, 0.005)
        canvas.line((end, _RAIL - 0.03), (end, _RAIL + 0.03), GREY, 0.012)
    left, right = 0.5 - scale * rail, 0.5 + scale * rail
    canvas.line((left, _RAIL), (right, _RAIL), GREY, 0.008)
