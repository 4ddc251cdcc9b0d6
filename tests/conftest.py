"""Two devices, so that seeds in lockstep are tested as they run."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
