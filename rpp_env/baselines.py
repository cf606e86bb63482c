"""Deprecated alias of `rpp_env.evaluation.baselines`; removed in the next version."""

import sys
import warnings

from rpp_env.evaluation import baselines

warnings.warn(
    "rpp_env.baselines is now rpp_env.evaluation.baselines", DeprecationWarning, stacklevel=2
)
sys.modules[__name__] = baselines
