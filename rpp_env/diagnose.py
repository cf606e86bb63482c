"""The old name of `rpp_env.evaluation.diagnose`, for one version."""

import sys
import warnings

from rpp_env.evaluation import diagnose

warnings.warn(
    "rpp_env.diagnose is now rpp_env.evaluation.diagnose", DeprecationWarning, stacklevel=2
)
sys.modules[__name__] = diagnose
