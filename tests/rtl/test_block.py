"""Ports of a block as annotations."""

from __future__ import annotations

from dataclasses import replace

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream, wiring

from golden_model.config import TINY
from rtl import layouts
from rtl.block import Block, In, Out, Stream
from rtl.interfaces import ConversionPort


class _Example(Block):
    fixed: In(3)
    shape: In(signed(5))
    record: Out(data.StructLayout({"a": 1, "b": 2}))
    sized: In(layouts.channel_entry)
    beats: Out(Stream(layouts.segment))
    words: In(Stream(7))
    crossbar: Out(ConversionPort)


def test_ports_have_the_shapes_of_the_configuration():
    for config in (TINY, replace(TINY, channel_entries=500, ou_rows=3)):
        ports = dict(_Example(config).signature.members.items())
        crossbar = ports.pop("crossbar")
        assert crossbar.flow == wiring.Out
        assert crossbar.signature.members == ConversionPort(config).members
        assert ports == {
            "fixed": wiring.In(3),
            "shape": wiring.In(signed(5)),
            "record": wiring.Out(data.StructLayout({"a": 1, "b": 2})),
            "sized": wiring.In(layouts.channel_entry(config)),
            "beats": wiring.Out(stream.Signature(layouts.segment(config))),
            "words": wiring.In(stream.Signature(7)),
        }
    assert len(_Example(replace(TINY, channel_entries=500)).sized) == 9


def test_computed_ports_come_before_the_annotated_ones():
    class Computed(Block):
        last: Out(1)

        def __init__(self, config):
            super().__init__(config, **{f"port{i}": wiring.In(unsigned(i)) for i in (1, 2)})

    made = Computed(TINY)
    assert list(made.signature.members) == ["port1", "port2", "last"]
    assert made.config is TINY
