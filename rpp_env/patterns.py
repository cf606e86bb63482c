"""Deprecated alias of `rpp_env.sentences`; removed in the next version."""

import sys
import warnings

from rpp_env import sentences

warnings.warn("rpp_env.patterns is now rpp_env.sentences", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = sentences
