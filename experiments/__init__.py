"""Launchers and the tools that read what they wrote."""

import gc

# Imports and traces make some million objects that stay: looking for garbage among
# them every 700 is a twentieth of the time until a first decision.
gc.set_threshold(100_000, 20, 20)
