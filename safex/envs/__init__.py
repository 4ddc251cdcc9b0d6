"""Pure JAX systems; importing this registers them with gymnasium.

`gymnasium.make("safex/Pendulum-v0", speed_threshold=5.0)` takes every field of the
system's config. The entry point is a string, so JAX is only loaded when an environment
is made, and pygame only when one is drawn.
"""

import gymnasium

SYSTEMS = {
    "Pendulum": "safex.envs.pendulum:Pendulum",
    "Cartpole": "safex.envs.cartpole:Cartpole",
    "PitchControl": "safex.envs.pitch_control:PitchControl",
    "RCCar": "safex.envs.rc_car:RCCar",
    "CarPark": "safex.envs.car_park:CarPark",
    "PointGoal": "safex.envs.point_goal:PointGoal",
}

# No `max_episode_steps`: the system truncates itself, and a second clock around it
# would hide `max_steps`.
for _name, _system in SYSTEMS.items():
    gymnasium.register(
        id=f"safex/{_name}-v0",
        entry_point="safex.envs.gymnasium_adapter:RegisteredEnv",
        kwargs={"system": _system},
    )
