"""Figures of a run and of several runs, in one colour-blind-safe look.

Every function writes one file and returns the figure. Figures are made without
pyplot: no global state, no display, safe in threads and under `jit` callbacks. None of
them loads JAX: what needs the system is computed beforehand, in `training.margins` and
`training.portrait`.
"""

from safex.training.plots.calibration import plot_calibration
from safex.training.plots.comparison import plot_comparison
from safex.training.plots.curves import plot_curves
from safex.training.plots.forecast import plot_forecast
from safex.training.plots.learning import plot_learning
from safex.training.plots.pareto import plot_pareto
from safex.training.plots.phase import plot_phase_portrait
from safex.training.plots.prediction import plot_prediction
from safex.training.plots.profiles import plot_improvement, plot_profiles
from safex.training.plots.training import plot_learned, plot_training
from safex.training.plots.uncertainty import plot_uncertainty

__all__ = [
    "plot_calibration",
    "plot_comparison",
    "plot_curves",
    "plot_forecast",
    "plot_improvement",
    "plot_learned",
    "plot_learning",
    "plot_pareto",
    "plot_phase_portrait",
    "plot_prediction",
    "plot_profiles",
    "plot_training",
    "plot_uncertainty",
]
