"""The machine as integers: what every block computes, counts and takes."""

__version__ = "0.1.0"
