"""The register bank: what the host's accesses do, straight from the table in `golden_model.registers`."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal

from golden_model.registers import (
    COUNTER_BITS,
    IDENTITY,
    REGION,
    REGION_SHIFT,
    REGISTERS,
    PortMode,
    counters_of,
    region_entries,
)
from rtl import lane_test, layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out, Stream, Where
from rtl.interfaces import ActivationBus, event_read, logit_read, port_shape


class RegisterBank(Block):
    """Registers and memory windows of the tile on a bus of single accesses.

    An access is refused (`error`, no effect) if its address is unaligned or names nothing, if the access
    rights forbid it, if a register or table entry is written with a byte strobe at 0 (activations may
    be), if the data has bits beyond the fields of the register or the entry of the table (descriptors
    aside), if tables, activations, cells, LAYER_COUNT, FIRST_LAYER or CELL_PAIRS are written or activations read while
    a network runs, if cells are touched while cells are programmed or checked, if CELL_DATA goes beyond
    the last crossbar pair, if CELL_PAIR, CELL_PAIRS, a width, a border value or what a register of the test names
    is beyond the hardware, if CONTROL asks for the cell check or for start while cells are programmed or checked,
    or for both at once, or for start in mode DRIVEN, or if a sample of the test is asked for in another mode. A refused
    read gives 0. Start while busy does nothing.

    Throughput: one access of the bus at a time, a write of the load stream a clock; those of the bus go first.
    Latency: a response follows 2 clocks after its request, 3 for a read of a memory; a write of the load stream
    is done in the clock after it was taken; nothing waits for the crossbar.

    Members
    -------
    requests, responses : accesses and their answers, in order.
    loads : writes of the load stream. load_refused : strobe, the one taken in the clock before is illegal; the one
        that is taken in this clock is dropped. load_status, load_clear : register LOAD_STATUS.
    table_write : every write of a table. table_checksum : what TABLE_CHECKSUM reads.
    control : strobes. status, cycles, checksum, failures, first_failed : what the registers of these names read.
    test, test_code, test_lines, test_request, test_answers : registers of the test, see `rtl.lane_test`.
    ends : strobes that set bits of IRQ_STATUS. interrupt : one that is enabled is set.
    layer_count, first_layer, cell_pairs : values of LAYER_COUNT, FIRST_LAYER and CELL_PAIRS; reset to 0.
    cell_select, cells, cells_full : cell programming; `cells` is offered only when it is taken at once.
    program_write ... start_write : write ports of the tables; some where the machine has what they are for.
    activations : the activation memory.
    logits, events : read ports of the results.
    """

    requests: In(Stream(tile.bus_request()))
    responses: Out(Stream(tile.bus_response()))
    loads: In(Stream(tile.load_write()))
    load_refused: Out(1)
    load_status: In(tile.register_fields("LOAD_STATUS"))
    load_clear: Out(tile.register_fields("LOAD_STATUS"))
    table_write: Out(tile.checked_write())
    table_checksum: In(tile.WORD)
    control: Out(tile.control())
    status: In(tile.status())
    ends: In(tile.ends())
    interrupt: Out(1)
    cycles: In(COUNTER_BITS)
    checksum: In(tile.WORD)
    failures: In(tile.register_fields("CELL_FAILURES"))
    first_failed: In(tile.register_fields("CELL_FAILED"))
    test: Out(tile.register_fields("TEST_CONTROL"))
    test_code: Out(tile.register_fields("TEST_CODE"))
    test_lines: Out(tile.test_lines())
    test_request: Out(tile.test_request())
    test_answers: In(tile.WORD)
    layer_count: Out(tile.register_fields("LAYER_COUNT")["layers"].shape)
    first_layer: Out(tile.register_fields("FIRST_LAYER")["layer"].shape)
    cell_pairs: Out(tile.register_fields("CELL_PAIRS")["pairs"].shape)
    cell_select: Out(tile.pair_select)
    cells: Out(Stream(tile.WORD))
    cells_full: In(1)
    program_write: Out(tile.program_write)
    width_write: Out(layouts.width_write)
    bias_write: Out(tile.bias_write)
    multiplier_write: Out(tile.multiplier_write)
    pad_write: Out(tile.pad_write)
    reference_write: Out(layouts.reference_write)
    lookup_write: Where(layouts.looks_up, Out(tile.lookup_write))
    bound_write: Where(layouts.early_stop, Out(layouts.bound_write))
    start_write: Where(layouts.early_stop, Out(layouts.start_write))
    activations: Out(ActivationBus)
    logits: Out(logit_read)
    events: Out(event_read)

    def elaborate(self, platform):
        m = Module()
        config, status = self.config, self.status
        request = Signal(tile.bus_request())
        response = self.responses.payload
        region = request.address[REGION_SHIFT:]
        entry = Signal(REGION_SHIFT - 2)
        aligned = request.address[:2] == 0
        whole_word = request.strobe.all()
        idle = ~status.busy
        execute = Signal()  # the registered request is being carried out in this clock
        refused, reads_memory = Signal(), Signal()
        # What the host is to be interrupted for, and what it clears.
        interrupts = {name: Signal(tile.ends(), name=name) for name in ("enabled", "pending", "cleared")}
        enabled, pending, cleared = (value.as_value() for value in interrupts.values())
        m.d.sync += pending.eq((pending & ~cleared) | self.ends.as_value())
        m.d.comb += [
            entry.eq(request.address[2:]),
            refused.eq(1),
            self.interrupt.eq((pending & enabled).any()),
        ]

        writes = {
            "PROGRAM": self.program_write,
            "WIDTHS": self.width_write,
            "BIAS": self.bias_write,
            "MULTIPLIERS": self.multiplier_write,
            "PADS": self.pad_write,
        }
        if config.looks_up:
            writes["LOOKUPS"] = self.lookup_write
        if config.early_stop:
            writes |= {"STOP_BOUNDS": self.bound_write, "STOP_STARTS": self.start_write}
        for port in writes.values():
            m.d.comb += [port.address.eq(entry), port.data.eq(request.data)]

        # ---- memory regions
        tables = {**writes, "REFERENCE": self.reference_write}
        entries = region_entries(config)
        # The data has no bits beyond the entry: nothing is cut off silently.
        fits = {name: ~request.data[len(port.data) :].any() for name, port in writes.items()}
        fits["WIDTHS"] = request.data <= config.weight_bits
        fits["PADS"] = ~request.data[config.input_bits :].any()
        fits["REFERENCE"] = ~request.data[config.adc_bits :].any() & (self.reference_write.count <= config.ou_rows)
        count_bits = len(self.reference_write.count)
        m.d.comb += [
            self.cells.payload.eq(request.data),
            self.cell_select.pair.eq(request.data),
            self.activations.data.eq(request.data),
            self.activations.word.eq(entry),
            self.logits.address.eq(entry),
            self.events.address.eq(entry >> 1),
            self.reference_write.layer.eq(entry >> count_bits),
            self.reference_write.count.eq(entry),
            self.reference_write.level.eq(request.data),
        ]
        m.d.comb += [self.table_write.address.eq(request.address), self.table_write.data.eq(request.data)]
        event_exists = entry[1:5] < len(counters_of(config))
        with m.Switch(region):
            with m.Case(0):
                self._registers(m, request, entry, refused, execute, interrupts)
            for name, port in tables.items():
                with m.Case(REGION[name].index):
                    exists = entry < entries[name] if entries[name] else Const(0)
                    legal = idle & request.write & whole_word & exists & fits[name]
                    m.d.comb += [refused.eq(~legal), port.enable.eq(execute & legal & aligned)]
                    m.d.comb += self.table_write.enable.eq(port.enable)
            with m.Case(REGION["ACTIVATIONS"].index):
                legal = idle & (entry < entries["ACTIVATIONS"])
                m.d.comb += [refused.eq(~legal), reads_memory.eq(1)]
                with m.If(execute & legal & aligned):
                    m.d.comb += self.activations.read.eq(~request.write)
                    m.d.comb += self.activations.write.eq(Mux(request.write, request.strobe, 0))
            with m.Case(REGION["LOGITS"].index):
                m.d.comb += [refused.eq(request.write | (entry >= entries["LOGITS"])), reads_memory.eq(1)]
                m.d.comb += self.logits.enable.eq(execute)
            with m.Case(REGION["EVENTS"].index):
                m.d.comb += refused.eq(request.write | (entry >= entries["EVENTS"]) | ~event_exists)
                m.d.comb += [self.events.enable.eq(execute), reads_memory.eq(1)]

        # A write of the load stream has no answer and makes room for the next one in its clock.
        of_stream, takes_load = Signal(), Signal()
        loaded = self.loads.payload
        m.d.comb += takes_load.eq(self.loads.valid & self.loads.ready)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.requests.ready.eq(1), self.loads.ready.eq(~self.requests.valid)]
                m.d.sync += [request.eq(self.requests.payload), of_stream.eq(takes_load)]
                with m.If(self.requests.valid | takes_load):
                    m.next = "EXECUTE"
            with m.State("EXECUTE"):
                m.d.comb += execute.eq(1)
                m.d.sync += response.error.eq(refused | ~aligned)
                with m.If(of_stream):
                    m.d.comb += [self.loads.ready.eq(~self.requests.valid), self.load_refused.eq(refused | ~aligned)]
                    with m.If(~takes_load | self.load_refused):
                        m.next = "IDLE"
                with m.Elif(refused | ~aligned):
                    m.d.sync += response.data.eq(0)
                    m.next = "RESPOND"
                with m.Elif(reads_memory & ~request.write):
                    m.next = "READ"
                with m.Else():
                    m.next = "RESPOND"
            with m.State("READ"):
                event = Mux(entry[0], self.events.data[tile.WORD :], self.events.data[: tile.WORD])
                with m.Switch(region):
                    with m.Case(REGION["ACTIVATIONS"].index):
                        m.d.sync += response.data.eq(self.activations.answer)
                    with m.Case(REGION["LOGITS"].index):
                        m.d.sync += response.data.eq(self.logits.data)
                    with m.Case(REGION["EVENTS"].index):
                        m.d.sync += response.data.eq(event)
                m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += self.responses.valid.eq(1)
                with m.If(self.responses.ready):
                    m.next = "IDLE"
        with m.If(takes_load):
            m.d.sync += [request.write.eq(1), request.strobe.eq(-1)]
            m.d.sync += [request.address.eq(loaded.address), request.data.eq(loaded.data)]
        return m

    def _registers(self, m: Module, request, entry, refused, execute, interrupts) -> None:
        """The register page: value read, access rights and effect of every register."""
        config, status = self.config, self.status
        values = {
            "IDENTITY": IDENTITY,
            "HARDWARE_HASH": config.hash_word,
            "CONTROL": 0,
            "STATUS": status,
            "LAYER_COUNT": self.layer_count,
            "FIRST_LAYER": self.first_layer,
            "CYCLES_LOW": self.cycles[: tile.WORD],
            "CYCLES_HIGH": self.cycles[tile.WORD :],
            "CELL_PAIRS": self.cell_pairs,
            "CELL_CHECKSUM": self.checksum,
            "IRQ_ENABLE": interrupts["enabled"],
            "IRQ_STATUS": interrupts["pending"],
            "LOAD_STATUS": self.load_status,
            "TABLE_CHECKSUM": self.table_checksum,
            "CELL_FAILURES": self.failures,
            "CELL_FAILED": self.first_failed,
            "TEST_CONTROL": self.test,
            "TEST_CODE": self.test_code,
            "TEST_ANSWERS": self.test_answers,
        }
        cells_idle = ~status.busy & ~status.cells_busy
        command, tested = Signal(tile.control()), Signal(tile.register_fields("TEST_CONTROL"))
        sampled, driven = Signal(tile.register_fields("TEST_SAMPLE")), self.test.mode == PortMode.DRIVEN
        m.d.comb += [
            command.eq(request.data),
            tested.eq(request.data),
            sampled.eq(request.data),
            *(self.test_request[name].eq(sampled[name]) for name in sampled.shape().members),
            self.test_lines.lines.eq(request.data),
        ]
        port, test_idle = port_shape(config), ~status.busy & ~status.test_busy
        writable = {
            "CONTROL": ~(command.check_cells & (~cells_idle | command.start))
            & ~(command.start & (status.cells_busy | driven)),
            "LAYER_COUNT": ~status.busy,
            "FIRST_LAYER": ~status.busy,
            "CELL_PAIR": cells_idle & (request.data < config.crossbar_pairs),
            "CELL_DATA": cells_idle & ~self.cells_full,
            "CELL_PAIRS": cells_idle & (request.data <= config.crossbar_pairs),
            "IRQ_ENABLE": 1,
            "IRQ_STATUS": 1,
            "LOAD_STATUS": 1,
            "TEST_CONTROL": test_idle
            & (tested.mode <= max(PortMode))
            & (tested.place < port.places)
            & (tested.half < len(port.parts))
            & (tested.word < lane_test.answer_words(config)),
            "TEST_CODE": ~request.data[config.converter_bits :].any(),
            "TEST_LINES": test_idle,
            "TEST_SAMPLE": test_idle
            & driven
            & (sampled.pair < config.crossbar_pairs)
            & (sampled.ou_row < (1 if config.pairs else config.grid_rows))
            & (sampled.ou_col < config.grid_cols),
        }
        aligned = request.address[:2] == 0
        with m.Switch(entry):
            for register in REGISTERS:
                with m.Case(register.offset >> 2):
                    with m.If(request.write):
                        if register.access != "r":
                            beyond = request.data[sum(field.bits for field in register.fields) :].any()
                            legal = request.strobe.all() & ~beyond & writable[register.name]
                            m.d.comb += refused.eq(~legal)
                    with m.Elif(execute):
                        if register.access != "w":
                            m.d.comb += refused.eq(0)
                            m.d.sync += self.responses.payload.data.eq(values[register.name])
                    if register.access == "r":
                        continue
                    with m.If(execute & request.write & aligned & ~refused):
                        self._effect(m, register.name, request, command, interrupts)

    def _effect(self, m: Module, name: str, request, command, interrupts) -> None:
        """What a legal write does."""
        match name:
            case "CONTROL":
                m.d.comb += [self.control.eq(command), self.control.start.eq(command.start & ~self.status.busy)]
            case "LAYER_COUNT":
                m.d.sync += self.layer_count.eq(request.data)
            case "FIRST_LAYER":
                m.d.sync += self.first_layer.eq(request.data)
            case "CELL_PAIRS":
                m.d.sync += self.cell_pairs.eq(request.data)
            case "CELL_PAIR":
                m.d.comb += self.cell_select.enable.eq(1)
            case "CELL_DATA":
                m.d.comb += self.cells.valid.eq(1)
            case "IRQ_ENABLE":
                m.d.sync += interrupts["enabled"].eq(request.data)
            case "IRQ_STATUS":
                m.d.comb += interrupts["cleared"].eq(request.data)
            case "LOAD_STATUS":
                m.d.comb += self.load_clear.eq(request.data)
            case "TEST_CONTROL":
                m.d.sync += self.test.eq(request.data)
            case "TEST_CODE":
                m.d.sync += self.test_code.eq(request.data)
            case "TEST_LINES":
                m.d.comb += self.test_lines.enable.eq(1)
            case "TEST_SAMPLE":
                m.d.comb += self.test_request.enable.eq(1)
            case _:
                raise NotImplementedError(f"register {name} has no effect defined for a write")
