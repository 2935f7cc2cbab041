"""The activation memory of a tile, one byte per activation (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory

from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In
from rtl.interfaces import ActivationBus, activation_read, window_read

_BYTES = tile.WORD // tile.BYTE


class ActivationMemory(Block):
    """Holds the inputs and outputs of all steps in one flat memory; descriptors say where.

    One read port and one write port of 32-bit words with byte strobes, so that the host moves four
    activations an access. A byte is read and another written in every clock, each with a latency of one
    clock. A byte that is read in the clock in which it is written comes with its old contents.

    The pair machine, which loads a window while it post-processes another, has a second read port for
    residuals. Where it reads several neighbours at once, even and odd words lie in two banks; of an address behind the
    last word it reads nothing that counts.

    Members
    -------
    window_read, residual_read : reads of activations. Of BWQ's machine the two never come in the same clock: the
        residual is read while a window is post-processed, or in clocks that the window walk leaves out for it.
    store : one byte to write.
    bus : the host's access, which takes precedence.

    There is nothing to reset; the contents are undefined until written.
    """

    window_read: In(window_read)
    residual_read: In(activation_read)
    store: In(tile.activation_write)
    bus: In(ActivationBus)

    def elaborate(self, platform):
        m = Module()
        self._banks = self._make_banks(m)
        window, residual = self.window_read, self.residual_read
        enable, address = window.enable, window.address
        if self.config.pairs:
            read = self._read(m, residual.enable, residual.address >> 2)
            m.d.comb += residual.data.eq(self._bytes(m, residual.enable, residual.address, read))
        else:
            enable, address = enable | residual.enable, Mux(residual.enable, residual.address, address)
            m.d.comb += residual.data.eq(window.data[0])
        words = self._read(m, enable | self.bus.read, Mux(self.bus.read, self.bus.word, address >> 2))
        m.d.comb += [
            window.data.eq(self._bytes(m, enable, address, words)),
            self.bus.answer.eq(words),
        ]
        self._write(m)
        return m

    def _make_banks(self, m: Module) -> list[memory.Memory]:
        words = layouts.activation_words(self.config)
        count = 2 if self.config.values_together > 1 else 1
        made = []
        for index in range(count):
            bank = memory.Memory(shape=unsigned(tile.WORD), depth=-(-words // count), init=[])
            m.submodules["cells" if count == 1 else f"cells{index}"] = bank
            made.append(bank)
        return made

    def _read(self, m: Module, enable: Value, word: Value) -> Value:
        """A word and, where there are two banks, the one behind it, in the clock after `enable`."""
        if len(self._banks) == 1:
            port = self._banks[0].read_port()
            m.d.comb += [port.en.eq(enable), port.addr.eq(word)]
            return port.data
        even, odd = (bank.read_port() for bank in self._banks)
        swapped = Signal()  # the odd word is the first one
        m.d.comb += [even.en.eq(enable), odd.en.eq(enable)]
        m.d.comb += [even.addr.eq((word + 1) >> 1), odd.addr.eq(word >> 1)]
        with m.If(enable):
            m.d.sync += swapped.eq(word[0])
        return Mux(swapped, Cat(odd.data, even.data), Cat(even.data, odd.data))

    @staticmethod
    def _bytes(m: Module, enable: Value, address: Value, words: Value) -> Value:
        """`words` from the byte on that was asked for in the clock before."""
        lane = Signal(range(_BYTES))
        with m.If(enable):
            m.d.sync += lane.eq(address)
        return words >> (lane << 3)

    def _write(self, m: Module) -> None:
        ports = [bank.write_port(granularity=tile.BYTE) for bank in self._banks]
        word, data, strobes = Signal(layouts.activation_word(self.config)), Signal(tile.WORD), Signal(_BYTES)
        with m.If(self.bus.write.any()):
            m.d.comb += [word.eq(self.bus.word), data.eq(self.bus.data), strobes.eq(self.bus.write)]
        with m.Else():
            m.d.comb += [word.eq(self.store.address >> 2), data.eq(self.store.data.replicate(_BYTES))]
            m.d.comb += strobes.eq(Mux(self.store.enable, 1 << self.store.address[:2], 0))
        for index, port in enumerate(ports):
            mine = 1 if len(ports) == 1 else word[0] == index
            m.d.comb += [
                port.addr.eq(word if len(ports) == 1 else word >> 1),
                port.data.eq(data),
                port.en.eq(Mux(mine, strobes, 0)),
            ]
