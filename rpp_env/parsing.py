"""Deprecated alias of `rpp_env.sentences.parsing`; removed in the next version."""

import sys
import warnings

from rpp_env.sentences import parsing

warnings.warn("rpp_env.parsing is now rpp_env.sentences.parsing", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = parsing
