"""Deprecated alias of `rpp_env.evaluation.diagnose`; removed in the next version."""

import sys
import warnings

from rpp_env.evaluation import diagnose

warnings.warn(
    "rpp_env.diagnose is now rpp_env.evaluation.diagnose", DeprecationWarning, stacklevel=2
)
sys.modules[__name__] = diagnose
