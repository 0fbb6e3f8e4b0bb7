"""Does a model fit, and how should it be split? Pure: config.json, sizes and settings in, figures out.

Figures follow vLLM 0.32 (its source, as installed from PyPI); where it measures on the GPU, `overhead`
estimates.
"""

from cluster.fit.predict import Prediction, predict
from cluster.fit.reasons import FitError

__all__ = ["FitError", "Prediction", "predict"]
