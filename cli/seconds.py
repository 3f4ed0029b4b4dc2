"""A time limit that is given on the command line."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """Errors: ArgumentTypeError unless it is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value
