"""Checks the descriptor of a step against the hardware configuration before it runs (system.md §4.1, §5a)."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from golden_model.config import HardwareConfig, bits_for
from golden_model.registers import MAX_ELEMENT_KERNEL, ErrorCode, StepKind
from rtl import layouts
from rtl.block import Block, In, Out


@dataclass(frozen=True)
class _Product:
    """left * right, added to the product before it if `adds`.

    It goes to `result`, or `legal` must hold of it where `applies` (None: always).
    """

    left: Value
    right: Value
    legal: Value | None = None
    applies: Value | None = None
    adds: bool = False
    result: Signal | None = None


class DescriptorCheck(Block):
    """Refuses a step that does not fit, and computes the two products that the window walk needs.

    The rules are those of `golden_model.image.check.check_descriptor` but for the A/D registers, which `TrqSettings`
    checks. A serial multiplier forms one product after the other; each is compared with what the descriptor says it
    is, or with what it may be. Where the windows lie needs no check: outside the map is border.

    Operands have `operand_bits`. A larger one makes its product too large for every rule, unless the other operand
    is 0; so it is refused, never cut off.

    Latency: `done` comes `latency(config)` clocks after `start`, error or not. Throughput: one check per
    that many clocks.

    Members
    -------
    settings : the descriptor, stable from `start` on.
    start, done : strobes.
    error : ErrorCode.NONE, LAYER_GEOMETRY or UNSUPPORTED; valid with `done`.
    row_step, pad_rows : stride_y·W and pad_top·W modulo the memory's address range; valid from `done` on.
    """

    settings: In(layouts.layer_settings)
    start: In(1)
    done: Out(1)
    error: Out(4)
    row_step: Out(layouts.activation_address)
    pad_rows: Out(layouts.activation_address)
    #: Products that are formed.
    _STEPS = 12

    @staticmethod
    def operand_bits(config: HardwareConfig) -> int:
        """Bits of every size of a legal descriptor: fields of 16 bits, and planes inside the memory."""
        return bits_for(max(config.activation_bytes, (1 << 16) - 1))

    @classmethod
    def latency(cls, config: HardwareConfig) -> int:
        """Clocks from `start` to `done`."""
        return cls._STEPS * (cls.operand_bits(config) + 2) + 1

    def elaborate(self, platform):
        m = Module()
        s = self.settings
        bits = self.operand_bits(self.config)

        # ---- serial multiplier: multiplier from the least significant bit up
        step, bit = Signal(range(self._STEPS)), Signal(range(bits))
        multiplicand, multiplier = Signal(2 * bits), Signal(bits)
        product = Signal(2 * bits + 1)  # one more bit: the sum of two
        oversize = Signal()  # an operand has more bits, and the other is not 0
        products = self._products(product)
        fits, sizes_fit = Signal(), Signal(2)
        m.d.sync += sizes_fit.eq(self._sizes_fit())  # the descriptor stays, so it is right long before it is needed

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [step.eq(0), fits.eq(1)]
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += bit.eq(0)
                with m.Switch(step):
                    for index, p in enumerate(products):
                        with m.Case(index):
                            large = p.left[bits:].any() & p.right.any() | p.right[bits:].any() & p.left.any()
                            m.d.sync += [
                                product.eq(product if p.adds else 0),
                                multiplicand.eq(p.left[:bits]),
                                multiplier.eq(p.right[:bits]),
                                oversize.eq(large),
                            ]
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                with m.If(multiplier[0]):
                    m.d.sync += product.eq(product + multiplicand)
                m.d.sync += [multiplicand.eq(multiplicand << 1), multiplier.eq(multiplier >> 1), bit.eq(bit + 1)]
                with m.If(bit == bits - 1):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.Switch(step):
                    for index, p in enumerate(products):
                        with m.Case(index):
                            if p.result is not None:
                                m.d.sync += p.result.eq(product)
                            if p.legal is not None:
                                unused = 0 if p.applies is None else ~p.applies
                                m.d.sync += fits.eq(fits & (p.legal & ~oversize | unused))
                m.d.sync += step.eq(step + 1)
                m.next = "LOAD"
                with m.If(step == len(products) - 1):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                with m.If(s.step > max(StepKind)):
                    m.d.comb += self.error.eq(ErrorCode.UNSUPPORTED)
                with m.Elif(~fits | ~sizes_fit.all()):
                    m.d.comb += self.error.eq(ErrorCode.LAYER_GEOMETRY)
                m.next = "IDLE"
        return m

    def _products(self, product: Signal) -> list[_Product]:
        """Operands, and what must hold for their product; both may use `product`, the one before or the one formed."""
        config, s = self.config, self.settings
        crossbar = s.step == StepKind.CROSSBAR
        memory = config.activation_bytes
        k = (s.segments - 1) * config.ou_rows + s.last_rows
        kernel = Mux(crossbar, config.max_k, MAX_ELEMENT_KERNEL)
        # A height or a width of 0 is refused elsewhere.
        last_row, last_column = (s.out_height - 1)[:16], (s.out_width - 1)[:16]
        return [
            _Product(s.height, s.width, product == s.in_plane),
            _Product(s.channels, s.in_plane, product + s.source <= memory),
            _Product(s.out_height, s.out_width, product == s.out_plane),
            _Product(s.outputs, s.out_plane, Mux(s.last, product <= config.max_n, product + s.target <= memory)),
            _Product(s.kernel_height, s.kernel_width, product <= kernel),
            _Product(product, s.channels, (product <= config.max_k) & (product == k), applies=crossbar),
            _Product(s.segments, s.block_cols, product + s.width_base <= config.width_entries, applies=crossbar),
            _Product(s.residual_channels, s.residual_plane, product + s.residual_base <= memory, applies=s.residual),
            _Product(last_row, s.residual_row, product < s.residual_plane, applies=s.residual),
            _Product(last_column, s.residual_column, product < s.residual_plane, applies=s.residual, adds=True),
            _Product(s.stride_y, s.width, result=self.row_step),
            _Product(s.pad_top, s.width, result=self.pad_rows),
        ]

    def _sizes_fit(self) -> Value:
        """The rules that need no product: those of all steps, and those of crossbar steps."""
        config, s = self.config, self.settings
        crossbar = s.step == StepKind.CROSSBAR
        sizes = (s.channels, s.height, s.width, s.in_plane, s.kernel_height, s.kernel_width, s.stride_y, s.stride_x)
        sizes += (s.out_height, s.out_width, s.out_plane, s.outputs, s.pool)
        border = Mux(crossbar, s.channels, s.outputs)
        no_pool = s.pool == 1
        columns = (s.block_cols - 1) * config.ou_cols + s.last_cols
        common = [
            *(size.any() for size in sizes),
            *(field.any() & (field <= config.input_bits) for field in (s.stream_bits, s.out_bits)),
            *([s.out_ones <= config.input_bits] if config.pairs else []),
            *([s.lookup <= config.activation_tables] if config.looks_up else []),
            *([~s.stop_bits.any() | (~s.last & ~s.residual)] if config.early_stop else []),
            ~s.last | ~s.residual & no_pool,
            ~s.residual | s.residual_channels.any() & no_pool,
            Mux(s.pad_enable, s.pad_base + border <= config.pad_entries, s.pad_value < 1 << config.input_bits),
            crossbar | no_pool,
        ]
        matrix = [
            s.outputs <= config.max_n,
            s.segments.any() & s.block_cols.any(),
            s.last_rows.any() & (s.last_rows <= config.ou_rows),
            s.last_cols.any() & (s.last_cols <= config.ou_cols),
            columns == s.outputs,
            s.channel_base + s.outputs <= config.channel_entries,
            s.crossbar_base <= config.crossbar_pairs,  # a step without planes may lie behind the last pair
            ~s.first_channel.any(),
            ~s.last | (s.out_plane == 1),
        ]
        return Cat(Cat(common).all(), ~crossbar | Cat(matrix).all())
