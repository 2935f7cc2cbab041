"""Hardware configurations of the cocotb tests."""

from golden_model.config import TINY
from tests.golden_model.random_graphs import NINE, SMALL

CONFIGURATIONS = {"tiny": TINY, "small": SMALL, "nine": NINE}
