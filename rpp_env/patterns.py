"""The old name of `rpp_env.sentences`, for one version."""

import sys
import warnings

from rpp_env import sentences

warnings.warn("rpp_env.patterns is now rpp_env.sentences", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = sentences
