"""safex: model-based safe exploration in JAX.

Learn unknown dynamics with calibrated uncertainty, plan pessimistically for cost, act,
and keep an honest account of every violation. Importing this package imports nothing
heavy; take what you need from its modules.
"""

__version__ = "0.1.0"
