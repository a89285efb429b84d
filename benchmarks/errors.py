"""The one error of the benchmarks."""

from __future__ import annotations


class Unavailable(Exception):
    """A target cannot give this figure; the text says why and goes into the report as a note."""
