"""The activation memory of a tile, one byte per activation (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In
from rtl.interfaces import ActivationBus, activation_read


class ActivationMemory(Block):
    """Holds the inputs and outputs of all steps in one flat memory; descriptors say where.

    The host moves 32-bit words with byte strobes. An activation, or of the pair machine `fetch_bytes` neighbours, is
    read, and one per macro written, in every clock, with a latency of one clock. A byte that is read in the clock in
    which it is written comes with its old contents.

    The pair machine, which loads a window while it post-processes another, has a second read port for residuals. Its
    memory is `fetch_bytes` wide; even and odd rows lie in two banks, so that neighbours may begin anywhere. Of an
    address behind the last row it reads nothing that counts.

    Members
    -------
    window_read, residual_read : reads of activations. Of BWQ's machine the two never come in the same clock: the
        residual is read while a window is post-processed, or in clocks that the window walk leaves out for it.
    store : neighbours to write.
    bus : the host's access, which takes precedence.

    There is nothing to reset; the contents are undefined until written.
    """

    window_read: In(activation_read)
    residual_read: In(activation_read)
    store: In(tile.activation_write)
    bus: In(ActivationBus)

    def __init__(self, config: HardwareConfig):
        super().__init__(config)
        #: Bytes of a row, and the bits that count them; words of the bus in it.
        self._row = max(tile.WORD // tile.BYTE, config.fetch_bytes)
        self._lane_bits = self._row.bit_length() - 1
        self._words = self._row * tile.BYTE // tile.WORD

    def elaborate(self, platform):
        m = Module()
        self._banks = self._make_banks(m)
        window, residual = self.window_read, self.residual_read
        enable, address = window.enable, window.address
        if self.config.pairs:
            read = self._read(m, residual.enable, residual.address >> self._lane_bits)
            m.d.comb += residual.data.eq(self._bytes(m, residual.enable, residual.address, read))
        else:
            enable, address = enable | residual.enable, Mux(residual.enable, residual.address, address)
            m.d.comb += residual.data.eq(window.data)
        bus_address = self.bus.word << 2
        row = Mux(self.bus.read, bus_address, address) >> self._lane_bits
        rows = self._read(m, enable | self.bus.read, row)
        m.d.comb += [
            window.data.eq(self._bytes(m, enable, address, rows)),
            self.bus.answer.eq(self._bytes(m, self.bus.read, bus_address, rows)),
        ]
        self._write(m)
        return m

    def _make_banks(self, m: Module) -> list[memory.Memory]:
        rows = -(-layouts.activation_words(self.config) // self._words)
        count = 2 if self.config.fetch_bytes > 1 else 1
        made = []
        for index in range(count):
            bank = memory.Memory(shape=unsigned(self._row * tile.BYTE), depth=-(-rows // count), init=[])
            m.submodules["cells" if count == 1 else f"cells{index}"] = bank
            made.append(bank)
        return made

    def _read(self, m: Module, enable: Value, row: Value) -> Value:
        """A row and, where there are two banks, the one behind it, in the clock after `enable`."""
        if len(self._banks) == 1:
            port = self._banks[0].read_port()
            m.d.comb += [port.en.eq(enable), port.addr.eq(row)]
            return port.data
        even, odd = (bank.read_port() for bank in self._banks)
        swapped = Signal()  # the odd row is the first one
        m.d.comb += [even.en.eq(enable), odd.en.eq(enable)]
        m.d.comb += [even.addr.eq((row + 1) >> 1), odd.addr.eq(row >> 1)]
        with m.If(enable):
            m.d.sync += swapped.eq(row[0])
        return Mux(swapped, Cat(odd.data, even.data), Cat(even.data, odd.data))

    def _bytes(self, m: Module, enable: Value, address: Value, rows: Value) -> Value:
        """`rows` from the byte on that was asked for in the clock before."""
        lane = Signal(self._lane_bits)
        with m.If(enable):
            m.d.sync += lane.eq(address)
        return rows >> (lane << 3)

    def _write(self, m: Module) -> None:
        address = Signal(layouts.activation_address(self.config))
        data, strobes = Signal(2 * self._row * tile.BYTE), Signal(2 * self._row)
        given, which = Signal(self._row * tile.BYTE), Signal(self._row)
        lane = address[: self._lane_bits]
        m.d.comb += [data.eq(given << (lane << 3)), strobes.eq(which << lane)]
        with m.If(self.bus.write.any()):
            m.d.comb += [address.eq(self.bus.word << 2), given.eq(self.bus.data), which.eq(self.bus.write)]
        with m.Else():
            m.d.comb += [address.eq(self.store.address), given.eq(self.store.data), which.eq(self.store.enable)]
        row = address >> self._lane_bits
        ports = [bank.write_port(granularity=tile.BYTE) for bank in self._banks]
        if len(ports) == 1:
            m.d.comb += [ports[0].addr.eq(row), ports[0].data.eq(data), ports[0].en.eq(strobes)]
            return
        # The row where the bytes begin, and the one behind it, each in the bank where it lies.
        for index, port in enumerate(ports):
            first = row[0] == index
            m.d.comb += [
                port.addr.eq((row + (1 - index)) >> 1),
                port.data.eq(Mux(first, data[: len(given)], data[len(given) :])),
                port.en.eq(Mux(first, strobes[: self._row], strobes[self._row :])),
            ]
