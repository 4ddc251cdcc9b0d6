"""Pure JAX systems; importing this registers them with gymnasium.

`gymnasium.make("safex/Pendulum-v0", speed_threshold=5.0)` takes every field of
`PendulumConfig` besides the limit. The entry point is a string, so JAX is only loaded
when an environment is made, and pygame only when one is drawn.
"""

import gymnasium

# No `max_episode_steps`: the system truncates itself, and a second clock around it
# would hide `max_steps`.
gymnasium.register(
    id="safex/Pendulum-v0",
    entry_point="safex.envs.gymnasium_adapter:PendulumEnv",
)
