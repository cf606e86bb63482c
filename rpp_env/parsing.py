"""The old name of `rpp_env.sentences.parsing`, for one version."""

import sys
import warnings

from rpp_env.sentences import parsing

warnings.warn("rpp_env.parsing is now rpp_env.sentences.parsing", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = parsing
