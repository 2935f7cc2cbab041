"""Proof: every access does and answers what the register table says, and a refused one does nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from golden_model.config import TINY, HardwareConfig
from golden_model.registers import IDENTITY, REGION, REGION_SHIFT, REGISTER, PortMode, counters_of, region_entries
from rtl.cell_programmer import CellProgrammer
from rtl.loader import Loader
from rtl.register_bank import RegisterBank
from rtl.tile import connect_loader, load_members
from tests.formal.mutants import mutant
from tests.formal.prove import PDR, bound
from tests.formal.streams import stream_rule

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

PAIRS = replace(TINY, machine="pairs")
#: Write ports of the tables that take a word as it is.
TABLES = {
    "PROGRAM": "program_write",
    "WIDTHS": "width_write",
    "BIAS": "bias_write",
    "MULTIPLIERS": "multiplier_write",
    "PADS": "pad_write",
}
#: A machine with activation functions.
FUNCTIONS = replace(TINY, activation_tables=3)


class BankSpec(wiring.Component):
    """Any accesses, any state of the tile. What is legal is written down anew from rtl/REGISTERS.md."""

    def __init__(self, config: HardwareConfig, bank: type = RegisterBank):
        self.bank = bank(config)
        super().__init__(self.bank.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.bank = bank = self.bank
        wiring.connect(m, wiring.flipped(self), bank)
        config = bank.config
        m.d.comb += Assume(stream_rule(m, bank.requests, "requests"))

        # ---- one answer per request, after 2 or 3 clocks
        accepted, answered = (port.valid & port.ready for port in (bank.requests, bank.responses))
        request = Signal.like(bank.requests.payload)
        age, waiting = Signal(2), Signal()
        m.d.sync += [waiting.eq((waiting & ~answered) | accepted), age.eq(Mux(accepted, 1, Mux(age == 3, 3, age + 1)))]
        with m.If(accepted):
            m.d.sync += request.eq(bank.requests.payload)
        # ---- or none: writes of the load stream, one a clock, which give way to the bus
        loads, load_waits = bank.loads, Signal()
        loaded = loads.valid & loads.ready
        with m.If(loaded):
            m.d.sync += [request.write.eq(1), request.strobe.eq(-1)]
            m.d.sync += [request.address.eq(loads.payload.address), request.data.eq(loads.payload.data)]
        m.d.sync += load_waits.eq(loaded & ~bank.load_refused)
        executing = (waiting & (age == 1)) | load_waits

        # ---- what the table says of the request in its clock
        write, data = request.write, request.data
        index, entry = request.address[REGION_SHIFT:], request.address[2:REGION_SHIFT]
        legal, named, reads_memory = Signal(), Signal(), Signal()
        self.told, self.enabled = Signal(2, name="told"), Signal(2, name="enabled")  # IRQ_STATUS, IRQ_ENABLE
        register_legal, value = self._register(m, request)
        entries = region_entries(config)
        regions = {name: Signal(name=f"is_{name.lower()}") for name in REGION}
        fits = {
            "PROGRAM": Const(1),
            "WIDTHS": data <= config.weight_bits,
            "BIAS": Const(1),
            "MULTIPLIERS": data < 1 << 16,
            "PADS": data < 1 << config.input_bits,
            "REFERENCE": (data < 1 << config.adc_bits)
            & ((entry & ((1 << len(bank.reference_write.count)) - 1)) <= config.ou_rows),
            "ACTIVATIONS": Const(1),
            "LOOKUPS": data < 1 << config.input_bits,
            "STOP_BOUNDS": Const(1),
            "STOP_STARTS": Const(1),
        }
        for name, here in regions.items():
            m.d.comb += here.eq((index == REGION[name].index) & (entry < entries[name]))
        events = regions["EVENTS"] & (entry[1:5] < len(counters_of(config)))
        tables = [name for name in REGION if name not in ("ACTIVATIONS", "LOGITS", "EVENTS")]
        idle = ~bank.status.busy
        m.d.comb += [
            named.eq(
                ((index == 0) & register_legal)
                | Cat(regions[name] & write & request.strobe.all() & fits[name] & idle for name in tables).any()
                | (regions["ACTIVATIONS"] & idle)
                | ((regions["LOGITS"] | events) & ~write)
            ),
            legal.eq(named & (request.address[:2] == 0)),
            reads_memory.eq(legal & ~write & (index != 0)),
        ]

        # ---- effects: those of a legal access in its clock, and no others
        does = executing & legal & write
        written_tables = TABLES | ({"LOOKUPS": "lookup_write"} if config.looks_up else {})
        for name, port_name in written_tables.items():
            port = getattr(bank, port_name)
            m.d.comb += Assert(port.enable == (does & regions[name]))
            with m.If(port.enable):
                m.d.comb += [Assert(port.address == entry), Assert(port.data.as_unsigned() == data[: len(port.data)])]
        written = bank.table_write
        m.d.comb += Assert(written.enable == (does & Cat(regions[name] for name in tables).any()))
        m.d.comb += Assert(~written.enable | ((written.address == request.address) & (written.data == data)))
        reference, activations = bank.reference_write, bank.activations
        on_activations = regions["ACTIVATIONS"] & executing & legal
        m.d.comb += [
            Assert(reference.enable == (does & regions["REFERENCE"])),
            Assert(activations.read == (on_activations & ~write)),
            Assert(activations.write == Mux(on_activations & write, request.strobe, 0)),
        ]
        with m.If(reference.enable):
            m.d.comb += [Assert(Cat(reference.count, reference.layer) == entry), Assert(reference.level == data)]
        with m.If(on_activations):
            m.d.comb += [Assert(activations.word == entry), Assert(activations.data == data)]
        with m.If(executing & reads_memory & regions["LOGITS"]):
            m.d.comb += [Assert(bank.logits.enable), Assert(bank.logits.address == entry)]
        with m.If(executing & reads_memory & events):
            m.d.comb += [Assert(bank.events.enable), Assert(bank.events.address == entry >> 1)]

        does_register = does & (index == 0)
        commands = Mux(does_register & self._is(request, "CONTROL"), data, 0)
        m.d.comb += [
            Assert(bank.control.start == (commands[0] & ~bank.status.busy)),
            Assert(bank.control.abort == commands[1]),
            Assert(bank.control.check_cells == commands[2]),
            Assert(bank.control.restart_checksum == commands[3]),
            Assert(bank.cell_select.enable == (does_register & self._is(request, "CELL_PAIR"))),
            Assert(~bank.cell_select.enable | (bank.cell_select.pair == data)),
            Assert(bank.cells.valid == (does_register & self._is(request, "CELL_DATA"))),
            Assert(~bank.cells.valid | (bank.cells.payload == data)),
            # cells and runs exclude each other
            Assert(~bank.control.start | ~bank.status.cells_busy),
            Assert(~bank.control.check_cells | (~bank.status.busy & ~bank.status.cells_busy & ~bank.control.start)),
        ]
        clears = Mux(does_register & self._is(request, "LOAD_STATUS"), data[:2], 0)
        m.d.comb += Assert(bank.load_clear.as_value() == clears)
        told, enabled = self.told, self.enabled
        cleared = Mux(does_register & self._is(request, "IRQ_STATUS"), data, 0)
        m.d.sync += told.eq((told & ~cleared) | bank.ends.as_value())
        with m.If(does_register & self._is(request, "IRQ_ENABLE")):
            m.d.sync += enabled.eq(data)
        m.d.comb += Assert(bank.interrupt == (told & enabled).any())
        lines, asked = bank.test_lines, bank.test_request
        m.d.comb += [
            Assert(lines.enable == (does_register & self._is(request, "TEST_LINES"))),
            Assert(~lines.enable | (lines.lines == data)),
            Assert(asked.enable == (does_register & self._is(request, "TEST_SAMPLE"))),
            Assert(~asked.enable | (Cat(asked.pair, asked.ou_row, asked.ou_col) == data)),
        ]
        for name, port in (
            ("LAYER_COUNT", bank.layer_count),
            ("FIRST_LAYER", bank.first_layer),
            ("CELL_PAIRS", bank.cell_pairs),
            ("TEST_CONTROL", bank.test.as_value()),
            ("TEST_CODE", bank.test_code.as_value()),
        ):
            last_written = Signal(len(port), name=f"last_{name.lower()}")
            with m.If(does_register & self._is(request, name)):
                m.d.sync += last_written.eq(data)
            m.d.comb += Assert(port == last_written)

        # ---- the answer
        error, expected, memory_read = Signal(), Signal(32), Signal()
        event = Mux(entry[0], bank.events.data[32:], bank.events.data[:32])
        with m.If(executing & waiting):
            m.d.sync += [error.eq(~legal), expected.eq(Mux(legal, value, 0)), memory_read.eq(reads_memory)]
        with m.If(memory_read & (age == 2)):
            m.d.sync += expected.eq(
                Mux(regions["ACTIVATIONS"], activations.answer, Mux(regions["LOGITS"], bank.logits.data, event))
            )
        response = bank.responses
        m.d.comb += [
            Assert(bank.requests.ready == (~waiting & ~load_waits)),
            Assert(loads.ready == (~waiting & ~bank.requests.valid)),
            Assert(bank.load_refused == (load_waits & ~legal)),
            Assert(~waiting | ~load_waits),
            Assert(response.valid == (waiting & (age >= Mux(memory_read, 3, 2)))),
            Assert(~response.valid | (response.payload.error == error)),
            Assert(~response.valid | write | (response.payload.data == expected)),
        ]
        return m

    def _is(self, request, name: str) -> Value:
        return request.address[2:REGION_SHIFT] == REGISTER[name].offset >> 2

    def _register(self, m: Module, request) -> tuple[Value, Value]:
        """(the access to a register is legal, what a read gives)."""
        bank, data = self.bank, request.data
        config, status = bank.config, bank.status
        no_cells = ~status.busy & ~status.cells_busy
        values = {
            "IDENTITY": IDENTITY,
            "HARDWARE_HASH": config.hash_word,
            "CONTROL": 0,
            "STATUS": status.as_value(),
            "LAYER_COUNT": bank.layer_count,
            "FIRST_LAYER": bank.first_layer,
            "CYCLES_LOW": bank.cycles[:32],
            "CYCLES_HIGH": bank.cycles[32:],
            "CELL_PAIRS": bank.cell_pairs,
            "CELL_CHECKSUM": bank.checksum,
            "IRQ_ENABLE": self.enabled,
            "IRQ_STATUS": self.told,
            "LOAD_STATUS": bank.load_status.as_value(),
            "TABLE_CHECKSUM": bank.table_checksum,
            "CELL_FAILURES": bank.failures.as_value(),
            "CELL_FAILED": bank.first_failed.as_value(),
            "TEST_CONTROL": bank.test.as_value(),
            "TEST_CODE": bank.test_code.as_value(),
            "TEST_ANSWERS": bank.test_answers,
        }
        free = ~status.busy & ~status.test_busy
        parts, places = (2 * config.macros, config.sample_places) if config.pairs else (1, 1)
        rows = 1 if config.pairs else config.grid_rows
        writable = {
            "CONTROL": (data < 16)
            & (~data[2] | (no_cells & ~data[0]))  # check_cells
            & (~data[0] | (~status.cells_busy & (bank.test.mode != PortMode.DRIVEN))),  # start
            "LAYER_COUNT": (data < 1 << 16) & ~status.busy,
            "FIRST_LAYER": (data < 1 << 16) & ~status.busy,
            "CELL_PAIR": (data < config.crossbar_pairs) & no_cells,
            "CELL_DATA": no_cells & ~bank.cells_full,
            "CELL_PAIRS": (data <= config.crossbar_pairs) & no_cells,
            "IRQ_ENABLE": data < 4,
            "IRQ_STATUS": data < 4,
            "LOAD_STATUS": data < 4,
            "TEST_CONTROL": free
            & (data < 1 << 15)
            & (data[:2] < 3)
            & (data[3:7] < places)
            & (data[7:12] < parts)
            & (data[12:15] == 0),
            "TEST_CODE": data < 1 << config.converter_bits,
            "TEST_LINES": free,
            "TEST_SAMPLE": free
            & (bank.test.mode == PortMode.DRIVEN)
            & (data[:16] < config.crossbar_pairs)
            & (data[16:24] < rows)
            & (data[24:] < config.grid_cols),
        }
        legal, value = Signal(name="register_legal"), Signal(32, name="register_value")
        assert set(values) == {name for name, register in REGISTER.items() if register.access != "w"}
        assert set(writable) == {name for name, register in REGISTER.items() if register.access != "r"}
        for name in REGISTER:
            with m.If(self._is(request, name)):
                m.d.comb += [
                    legal.eq(Mux(request.write, writable.get(name, 0) & request.strobe.all(), Const(name in values))),
                    value.eq(values.get(name, 0)),
                ]
        return legal, value


class CellsSpec(wiring.Component):
    """The bank, the loader and the cell programmer as the tile connects them; everything else is free."""

    def __init__(self, bank: type = RegisterBank, loader: type = Loader):
        self.bank, self.programmer, self.loader = bank(TINY), CellProgrammer(TINY, limit=4), loader(TINY)
        super().__init__({"b": Out(self.bank.signature), "p": Out(self.programmer.signature), **load_members()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.bank, m.submodules.programmer = bank, programmer = self.bank, self.programmer
        m.submodules.loader = loader = self.loader
        connect_loader(m, self, loader, bank, programmer, bank.status.busy)
        own = {
            "bank": ("cells", "status", "cells_full", "checksum", "loads", "load_status"),
            "programmer": ("cells", "select", "check", "pairs"),
        }
        for block, outer, mine in ((bank, self.b, own["bank"]), (programmer, self.p, own["programmer"])):
            for name, member in block.signature.members.items():
                if name in mine:
                    continue
                inside, outside = getattr(block, name), getattr(outer, name)
                if member.is_signature:
                    wiring.connect(m, inside, wiring.flipped(outside))
                elif member.flow == Out:
                    m.d.comb += outside.eq(inside)
                else:
                    m.d.comb += inside.eq(outside)
        for field in ("busy", "done", "overflow", "error", "layer"):
            m.d.comb += bank.status[field].eq(self.b.status[field])
        running, started = Signal(), Signal()
        m.d.sync += [running.eq(bank.status.busy), started.eq(bank.control.start)]
        m.d.comb += [
            # a run begins with a start, and in its clock none goes on
            Assume(~bank.status.busy | running | started),
            bank.checksum.eq(programmer.checksum),
            bank.cells_full.eq(programmer.full),
            programmer.select.eq(bank.cell_select),
            programmer.check.eq(bank.control.check_cells),
            programmer.pairs.eq(bank.cell_pairs),
            Assert(~bank.cells.valid | bank.cells.ready),
            Assert(~loader.cells.valid | loader.cells.ready),
            Assert(~(bank.cells.valid & loader.cells.valid)),
            # what the programmer's docstring asks for, and what its stream's proof assumes
            Assert(~((bank.cell_select.enable | bank.control.check_cells) & programmer.busy)),
        ]
        busy, pairs = Signal(), Signal.like(bank.cell_pairs)
        m.d.sync += [busy.eq(programmer.busy | programmer.check), pairs.eq(bank.cell_pairs)]
        m.d.comb += Assert(~busy | (bank.cell_pairs == pairs))
        return m


@pytest.mark.parametrize("config", [TINY, PAIRS, FUNCTIONS], ids=["tiny", "tiny-pairs", "functions"])
def test_every_access_does_and_answers_what_the_table_says(config, proof):
    proof(BankSpec(config), "register_bank", f"tiny, {config.machine}, any accesses", PDR)


def test_no_word_of_cells_is_lost_between_bank_and_programmer(proof):
    proof(CellsSpec(), "register_bank, cell_programmer", "tiny, any accesses, any array", PDR)


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ('"LAYER_COUNT": ~status.busy,', '"LAYER_COUNT": 1,'),
        ('"FIRST_LAYER": ~status.busy,', '"FIRST_LAYER": 1,'),
        ("request.data <= config.weight_bits", "request.data <= config.weight_bits + 1"),
        ("exists & fits[name]", "fits[name]"),
        ("with m.If(execute & request.write & aligned & ~refused)", "with m.If(execute & request.write & ~refused)"),
        ("(pending & ~cleared) | self.ends.as_value()", "(pending | self.ends.as_value()) & ~cleared"),
        ("(pending & enabled).any()", "pending.any()"),
        ("with m.If(~takes_load | self.load_refused):", "with m.If(~takes_load):"),
        ("self.loads.ready.eq(~self.requests.valid), self.load", "self.loads.ready.eq(1), self.load"),
        ("self.events.data[tile.WORD :], self.events.data[: tile.WORD]", "self.events.data[: tile.WORD], 0"),
    ],
)
def test_wrong_bank_is_refuted(correct, wrong, refutation):
    refutation(BankSpec(TINY, mutant(RegisterBank, correct, wrong)), "register_bank", f"`{wrong}`", bound(8))


def test_a_bank_that_overruns_the_programmer_is_refuted(refutation):
    wrong = mutant(RegisterBank, "cells_idle & ~self.cells_full,", "~status.busy & ~self.cells_full,")
    refutation(CellsSpec(wrong), "register_bank", "CELL_DATA while cells are busy", bound(16))
