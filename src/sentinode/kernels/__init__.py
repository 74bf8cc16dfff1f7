"""Compiled loops, the extra `fast`; without them PyTorch's operations give the same to rounding, more slowly."""

import warnings
from functools import cache
from importlib.util import find_spec

from sentinode.errors import SentinodeWarning


@cache
def at_hand() -> bool:
    """Whether loops can be compiled here. That Numba is missing is said once, by what first asks."""
    if find_spec("numba") is not None:
        return True
    text = "Numba is not installed, so training takes about 3 times as long; pip install 'sentinode[fast]'"
    warnings.warn(text, SentinodeWarning, stacklevel=2)
    return False
