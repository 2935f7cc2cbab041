"""Between converters and array: array and comparators in the hands of the host, or converters without an array."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value

from golden_model.config import HardwareConfig
from golden_model.registers import PortMode
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out
from rtl.interfaces import conversion_port, parts_of, port_shape


def answer_words(config: HardwareConfig) -> int:
    """Words of TEST_ANSWERS."""
    return -(-port_shape(config).converters // tile.WORD)


class LaneTest(Block):
    """Passes the port on, or lets the host measure any column, or answers in place of the array.

    NORMAL : macro and array see each other, through a multiplexer that stands still.
    TIED_OFF : the array is asked nothing; samples are taken in their clock, and comparators answer `control.answer`. So
        the digital side can be tested without an array.
    DRIVEN : the converters ask nothing. A `request` offers a sample of the word lines that `lines` brought; in every
        clock all comparators of the half compare the place with `code`, and `answers` shows what they said. So DAC,
        sample-and-hold, comparators and cells can be measured code by code.

    Latency: none from macro to array and back; a sample is offered in the clock after its `request`, `answers` follow
    code and sample in the next clock. Handshake: a sample stays until it is taken. Reset: by mode NORMAL; no sample.

    Members
    -------
    control, code : registers TEST_CONTROL and TEST_CODE; they change only while `busy` is 0 and no network runs.
    lines, request : writes of TEST_LINES and TEST_SAMPLE. busy : a sample waits. answers : register TEST_ANSWERS.
    macro, array : the port on both sides.
    """

    control: In(tile.register_fields("TEST_CONTROL"))
    code: In(tile.register_fields("TEST_CODE"))
    lines: In(tile.test_lines())
    request: In(tile.test_request())
    busy: Out(1)
    answers: Out(tile.WORD)
    macro: In(conversion_port)
    array: Out(conversion_port)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, control = self.config, self.control
        tied, driven = control.mode == PortMode.TIED_OFF, control.mode == PortMode.DRIVEN
        inner, outer = parts_of(self.macro, config), parts_of(self.array, config)

        # ---- the host's sample
        sample = Signal.like(outer[0].sample.payload, name="sample")
        lines = Value.cast(sample.lines if config.pairs else sample.slice)
        words = Signal(-(-len(lines) // tile.WORD) * tile.WORD)
        taken = Cat(part.sample.valid & part.sample.ready for part in outer).any()
        with m.If(self.lines.enable):
            m.d.sync += words.eq(Cat(words, self.lines.lines) >> tile.WORD)
        with m.If(self.request.enable):
            m.d.sync += [self.busy.eq(1), lines.eq(words)]
            m.d.sync += [sample[name].eq(self.request[name]) for name in self._place(sample)]
        with m.Elif(driven & taken):
            m.d.sync += self.busy.eq(0)

        # ---- parts of the port
        answers = []
        for i, (inside, outside) in enumerate(zip(inner, outer, strict=True)):
            offered = Signal.like(sample, name=f"offered{i}")
            m.d.comb += offered.eq(sample)
            if config.pairs:
                m.d.comb += offered.place.eq(control.place)
            m.d.comb += [
                outside.sample.valid.eq(Mux(driven, self.busy & (control.half == i), inside.sample.valid & ~tied)),
                outside.sample.payload.eq(Mux(driven, offered.as_value(), Value.cast(inside.sample.payload))),
                inside.sample.ready.eq(Mux(tied, 1, outside.sample.ready & ~driven)),
                inside.comparators.eq(
                    Mux(tied, control.answer.replicate(len(outside.comparators)), outside.comparators)
                ),
                *(
                    code.eq(Mux(driven, self.code.code, given))
                    for code, given in zip(outside.thresholds, inside.thresholds, strict=True)
                ),
                outside.compare.eq(Mux(tied, 0, inside.compare | driven.replicate(len(inside.compare)))),
            ]
            if config.pairs:
                m.d.comb += [
                    place.eq(Mux(driven, control.place, given))
                    for place, given in zip(outside.places, inside.places, strict=True)
                ]
            if config.comparator_valid:
                m.d.comb += inside.decided.eq(outside.decided | tied.replicate(len(outside.decided)))
            captured = Signal(answer_words(config) * tile.WORD, name=f"captured{i}")
            m.d.sync += captured.eq(outside.comparators)
            answers.append(captured)
        m.d.comb += [
            self.array.layer.eq(self.macro.layer),
            self.answers.eq(Array(answers)[control.half].word_select(control.word, tile.WORD)),
        ]
        return m

    @staticmethod
    def _place(sample: Any) -> list[str]:
        """Fields of a sample that a request names."""
        return [name for name in ("pair", "ou_row", "ou_col") if name in sample.shape().members]
