"""Hardware configurations of the cocotb tests."""

from golden_model.config import TINY
from tests.end_to_end.networks import NINE, SMALL

CONFIGURATIONS = {"tiny": TINY, "small": SMALL, "nine": NINE}
