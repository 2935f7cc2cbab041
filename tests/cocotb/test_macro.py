"""The exported macro in cocotb on Verilator, a behavioural array answering its comparators, against golden."""

import pytest

from rtl.macro import Macro
from sim.backends import verilator
from tests.cocotb.designs import CONFIGURATIONS

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize(("name", "gates"), [("tiny", False), ("nine", False), ("tiny", True)])
def test_exported_macro_and_its_netlist_equal_golden(name, gates, tmp_path):
    design = verilator.build(Macro(CONFIGURATIONS[name]), gates=gates)
    failures = verilator.run_tests(
        design, "tests.cocotb.macro_session", environment={"OHMLOOM_CONFIG": name}, workspace=tmp_path
    )
    assert not failures
