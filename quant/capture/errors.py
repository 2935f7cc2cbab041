"""What a capture refuses."""

from __future__ import annotations


class UnsupportedOperator(ValueError):
    """The network holds an operator that the hardware cannot run; the message names the layer."""
