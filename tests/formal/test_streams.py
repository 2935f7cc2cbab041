"""Proof: in every stream of every block valid and payload hold until ready, and valid does not wait for ready."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import wiring

import rtl
from golden_model.config import TINY
from rtl import layouts
from rtl.address_generator import AddressGenerator
from rtl.axi_lite import AxiLite
from rtl.cell_programmer import CellProgrammer
from rtl.dynamic_precision import DynamicPrecision
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.generate import RegisteredReset
from rtl.interfaces import parts_of
from rtl.lane_test import LaneTest
from rtl.loader import Loader
from rtl.macro import Macro
from rtl.ou_former import OuFormer
from rtl.ou_scheduler import OuScheduler
from rtl.pack_walker import PackWalker
from rtl.pair_converter import PairConverter
from rtl.pair_macro import PairMacro
from rtl.pair_macros import PairMacros
from rtl.register_bank import RegisterBank
from rtl.tile import Tile
from tests.formal.mutants import mutant
from tests.formal.prove import PDR, Method, bound, induction, paths
from tests.formal.streams import Contract, ForwardSpec, StreamSpec, held_while, lists_rule, master_rule, streams_of

pytestmark = [
    pytest.mark.rtl,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable"),
]

PAIRS = replace(TINY, machine="pairs")


# ---- contracts: what the docstrings of the blocks ask of their inputs ---------------------------
def _bus(m: Module, block: AxiLite) -> None:
    m.d.comb += Assume(master_rule(m, block))


def _programmer(m: Module, block: CellProgrammer) -> None:
    """The number of pairs is not changed while they are checked (the register bank refuses that); the array lets
    nothing wait so long that it is given up."""
    held_while(m, block.busy | block.check, block.pairs, "pairs")
    waited = Signal(range(block.limit))
    waits = Cat(port.valid & ~port.ready for port in (block.program, block.readback_request)).any()
    m.d.sync += waited.eq(Mux(waits, waited + 1, 0))
    m.d.comb += Assume(waited != block.limit - 1)


def _no_sample_while_read_back(*ports: str) -> Contract:
    """Cells are not read back during a run (the register bank refuses to start either while the other goes on)."""

    def contract(m: Module, block: Any) -> None:
        sampled = [port_at(block.port, path).valid for path in ports]
        for valid in sampled:
            m.d.comb += Assume(~(valid & block.port.readback.valid))

    return contract


def port_at(port: Any, path: str) -> Any:
    for name in path.split("."):
        port = getattr(port, name)
    return port


def _scheduler(m: Module, block: OuScheduler) -> None:
    """Lists keep their rule; nothing starts while a sample is offered; the descriptor is stable."""
    held_while(m, block.sample.valid, block.settings.skip_zero_slices, "settings")
    m.d.comb += [
        Assume(lists_rule(m, block.lists, block.start)),
        Assume(~(block.start & (block.sample.valid | block.lists.next_ready))),
    ]


def _converter(m: Module, block: PairConverter) -> None:
    """The tables and the first pair are stable while a sample is on offer, and the tables in the clock before."""
    offered, written, wrote = block.port.sample.valid, block.writes.groups.enable, Signal()
    held_while(m, offered, block.first_pair, "first_pair")
    m.d.sync += wrote.eq(written)
    m.d.comb += Assume(~(offered & (written | wrote)))


def _bank(m: Module, block: RegisterBank) -> None:
    """Cells are taken at once where they may be written (proved of the programmer, see test_register_bank)."""
    status = block.status
    m.d.comb += Assume(block.cells.ready | status.busy | status.cells_busy | block.cells_full)


def _loader(m: Module, block: Loader) -> None:
    """Cells are taken at once where they may be. A write that waits is withdrawn if the host clears the packet or the
    one before it is refused; neither happens here."""
    m.d.comb += [
        Assume(block.cells.ready | block.cells_busy | block.cells_refused),
        Assume(~(block.clear.busy & block.writes.valid)),
        Assume(~block.refused | block.writes.ready),
    ]


def _lane_test(m: Module, block: LaneTest) -> None:
    """Mode and request change only while no sample waits (the register bank refuses them otherwise)."""
    offered = [part.sample.valid for part in parts_of(block.array, block.config)]
    held_while(m, block.busy | Cat(offered).any(), block.control, "control")
    m.d.comb += Assume(~(block.busy & block.request.enable))


@dataclass(frozen=True)
class Streams:
    make: Callable[[], wiring.Component]
    method: Method = PDR
    contract: Contract | None = None


#: How the streams that each block drives are proved.
PROOFS = {
    "AxiLite": Streams(AxiLite, contract=_bus),
    "CellProgrammer": Streams(lambda: CellProgrammer(TINY, limit=4), contract=_programmer),
    "DynamicPrecision": Streams(lambda: DynamicPrecision(TINY), induction(2)),
    "EmulatedCrossbar": Streams(lambda: EmulatedCrossbar(TINY), contract=_no_sample_while_read_back("sample")),
    "EmulatedPairCrossbar": Streams(
        lambda: EmulatedPairCrossbar(PAIRS), contract=_no_sample_while_read_back("half0.sample", "half1.sample")
    ),
    "LaneTest": Streams(lambda: LaneTest(TINY), induction(2), _lane_test),
    "LaneTest of pairs": Streams(lambda: LaneTest(PAIRS), induction(2), _lane_test),
    "Loader": Streams(lambda: Loader(TINY), contract=_loader),
    "OuFormer": Streams(lambda: OuFormer(PAIRS), induction(2)),
    "OuScheduler": Streams(lambda: OuScheduler(TINY), contract=_scheduler),
    "PackWalker": Streams(lambda: PackWalker(PAIRS)),
    "PairConverter": Streams(lambda: PairConverter(PAIRS), contract=_converter),
    "RegisterBank": Streams(lambda: RegisterBank(TINY), contract=_bank),
}
#: Blocks that only pass on streams of a block inside them: which stream is which.
FORWARDED = {
    "Macro": (lambda: Macro(TINY), {"crossbar.sample": "scheduler.sample"}),
    "PairMacro": (
        lambda: PairMacro(PAIRS),
        {"half0.sample": "converter0.port__sample", "half1.sample": "converter1.port__sample"},
    ),
    "PairMacros": (
        lambda: PairMacros(PAIRS),
        {"crossbar.half0.sample": "macro0.half0__sample", "crossbar.half1.sample": "macro0.half1__sample"},
    ),
    "Tile": (
        lambda: Tile(TINY),
        {
            "crossbar.sample": "test.array__sample",
            "crossbar.program": "programmer.program",
            "crossbar.readback_request": "programmer.readback_request",
        },
    ),
    "Tile of pairs": (
        lambda: Tile(PAIRS),
        {
            "crossbar.half0.sample": "test.array__half0__sample",
            "crossbar.half1.sample": "test.array__half1__sample",
            "crossbar.program": "programmer.program",
            "crossbar.readback_request": "programmer.readback_request",
        },
    ),
}


@pytest.mark.parametrize("name", PROOFS)
def test_beats_hold_until_they_are_taken(name, proof):
    streams = PROOFS[name]
    block = streams.make()
    spec = StreamSpec(block, streams.contract)
    driven = ", ".join(path for path, _, drives in streams_of(block) if drives)
    proof(spec, name, driven, streams.method)


@pytest.mark.parametrize("name", PROOFS)
def test_every_stream_can_have_a_beat(name, refutation):
    """So no contract contradicts itself."""
    streams = PROOFS[name]
    for path in [path for path, _, drives in streams_of(streams.make()) if drives]:
        spec = StreamSpec(streams.make(), streams.contract, silent=path)
        refutation(spec, name, f"`{path}` is silent", bound(14))


@pytest.mark.parametrize("name", FORWARDED)
def test_streams_of_blocks_inside_are_passed_on(name, proof):
    make, forwarded = FORWARDED[name]
    block = make()
    assert {path for path, _, drives in streams_of(block) if drives} == set(forwarded)
    spec = ForwardSpec(block, list(forwarded))
    proof(spec, name, ", ".join(forwarded), induction(1), probes=spec.probes(forwarded))


def test_lists_of_ous_hold_until_they_are_used(proof):
    class Lists(wiring.Component):
        def __init__(self):
            self.block = AddressGenerator(TINY)
            super().__init__(self.block.signature)

        def elaborate(self, platform):
            m = Module()
            m.submodules.block = block = self.block
            wiring.connect(m, wiring.flipped(self), block)
            lists = block.lists
            m.d.comb += [
                Assume(~lists.switch | (lists.next_ready & lists.from_next)),
                Assume(~(lists.step & lists.from_next) | lists.switch),
                Assert(lists_rule(m, lists, block.start)),
            ]
            return m

    proof(Lists(), "AddressGenerator", "lists, any use", induction(2))


def _blocks() -> dict[str, Any]:
    """Every component of the package `rtl`."""
    found = {}
    for module in pkgutil.iter_modules(rtl.__path__):
        members = vars(importlib.import_module(f"rtl.{module.name}")).values()
        found |= {
            member.__name__: member
            for member in members
            if inspect.isclass(member)
            and issubclass(member, wiring.Component)
            and member.__module__ == f"rtl.{module.name}"
        }
    return found


def test_no_block_with_streams_is_left_out():
    """A new block whose ports hold a stream that it drives needs a line in PROOFS or FORWARDED."""
    special = {
        "AxiLite": lambda block: block(),
        "LayerSequencer": lambda block: block(TINY, settle_clocks=1),
        "Table": lambda block: block(layouts.width_write(TINY), 4),
    }
    for name, block in _blocks().items():
        if name == "RegisteredReset":  # wraps any block and changes nothing but its reset
            continue
        component = special.get(name, lambda block: block(TINY))(block)
        if any(drives for _, _, drives in streams_of(component)):
            assert name in PROOFS or name in FORWARDED, f"{name} drives streams that nothing is proved of"


@pytest.mark.parametrize("name", [*PROOFS, *FORWARDED])
def test_valid_does_not_depend_on_ready(name, tmp_path, entry):
    """No combinational path: from the netlist, for all inputs and states."""
    make = PROOFS[name].make if name in PROOFS else FORWARDED[name][0]
    streams = [path for path, _, drives in streams_of(make()) if drives]
    found = paths(make(), tmp_path)
    for stream in streams:
        port = stream.replace(".", "__")
        assert f"{port}__ready" not in found[f"{port}__valid"]
    entry(name, ", ".join(streams), "netlist")


def test_a_path_from_ready_to_valid_is_found(tmp_path):
    """`slices.ready` depends on `ous.ready`, as the docstring says; `ous.valid` does not."""
    found = paths(OuFormer(PAIRS), tmp_path)
    assert "ous__ready" in found["slices__ready"]
    assert "ous__ready" not in found["ous__valid"]


@pytest.mark.parametrize(
    ("config", "expected"), [(TINY, {"crossbar__sample__valid": {"crossbar__comparators"}}), (PAIRS, {})]
)
def test_no_path_leads_from_pin_to_pin_of_a_tile_but_from_the_comparators_of_planes(config, expected, tmp_path, entry):
    """docs/analog-port.md says what the machine of planes has it for."""
    found = paths(RegisteredReset(Tile(config)), tmp_path)
    assert {output: inputs for output, inputs in found.items() if inputs} == expected
    allowed = [f"{output} <- {given}" for output, inputs in expected.items() for given in inputs]
    entry(
        "Tile of pairs" if config.pairs else "Tile",
        f"but {', '.join(allowed)}" if allowed else "none at all",
        "netlist",
    )


@pytest.mark.parametrize(
    ("block", "correct", "wrong"),
    [
        (OuScheduler, "self.sample.valid.eq((slot_over & pending)", "self.sample.valid.eq((self.completed & pending)"),
        (LaneTest, "with m.Elif(driven & taken):", "with m.Elif(driven):"),
        (DynamicPrecision, "advance.eq(~self.segments.valid | self.segments.ready)", "advance.eq(1)"),
        (OuFormer, "done.eq(~self.ous.valid | (self.ous.ready & last))", "done.eq(~self.ous.valid | last)"),
    ],
)
def test_broken_stream_is_refuted(block, correct, wrong, refutation):
    config = PAIRS if block is OuFormer else TINY
    contract = PROOFS[block.__name__].contract
    refutation(StreamSpec(mutant(block, correct, wrong)(config), contract), block.__name__, f"`{wrong}`", bound(12))
