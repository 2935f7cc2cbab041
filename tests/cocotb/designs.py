"""Hardware configurations of the cocotb tests."""

from golden_model.config import TINY
from tests.golden_model.random_graphs import NINE, NINE_PAIRS, SMALL, SMALL_PAIRS

CONFIGURATIONS = {
    "tiny": TINY,
    "small": SMALL,
    "nine": NINE,
    "small pairs": SMALL_PAIRS,
    "nine pairs": NINE_PAIRS,
}
