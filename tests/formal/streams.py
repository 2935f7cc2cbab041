"""The rule of streams, and a specification for any block: assumed of what comes in, asserted of what goes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out

#: A block's documented conditions on its inputs: adds assumptions to a specification that contains the block.
Contract = Callable[[Module, Any], None]


def streams_of(component: wiring.Component) -> Iterator[tuple[str, Any, bool]]:
    """(path, port, the component drives it) of every stream of a component, those within other interfaces included."""
    yield from _streams(component.signature.members, component, "")


def _streams(members: Any, parent: Any, path: str) -> Iterator[tuple[str, Any, bool]]:
    for name, member in members.items():
        if not member.is_signature:
            continue
        signature, port = member.signature, getattr(parent, name)
        plain = signature.flip() if isinstance(signature, wiring.FlippedSignature) else signature
        if isinstance(plain, stream.Signature):
            yield path + name, port, signature.members["valid"].flow == Out
        else:
            yield from _streams(signature.members, port, f"{path}{name}.")


def stream_rule(m: Module, port: Any, name: str) -> Value:
    """1 unless a beat that was offered and not taken is withdrawn or changed."""
    payload = Value.cast(port.payload)
    waiting, before = Signal(name=f"{name}_waiting"), Signal(len(payload), name=f"{name}_before")
    m.d.sync += [waiting.eq(port.valid & ~port.ready), before.eq(payload)]
    return ~waiting | (port.valid & (payload == before))


class StreamSpec(wiring.Component):
    """A block whose inputs are free but for the rule on its input streams and its contract.

    silent : stream of which instead is stated that it never has a beat, to see that the contract allows one.
    """

    def __init__(self, block: wiring.Component, contract: Contract | None = None, silent: str = ""):
        self.block, self.contract, self.silent = block, contract, silent
        super().__init__(block.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.block = block = self.block
        wiring.connect(m, wiring.flipped(self), block)
        for path, port, driven in streams_of(block):
            rule = stream_rule(m, port, path.replace(".", "_"))
            if not driven:
                m.d.comb += Assume(rule)
            elif not self.silent:
                m.d.comb += Assert(rule)
            elif path == self.silent:
                m.d.comb += Assert(~port.valid)
        if self.contract is not None:
            self.contract(m, block)
        return m


class ForwardSpec(wiring.Component):
    """A block some of whose streams are those of blocks inside it; `probes` makes these visible."""

    def __init__(self, block: wiring.Component, paths: Iterable[str]):
        self.block = block
        self.ports = {path: port for path, port, _ in streams_of(block) if path in set(paths)}
        inside = {
            f"inner_{i}_{part}": wiring.In(Value.cast(getattr(port, part)).shape())
            for i, port in enumerate(self.ports.values())
            for part in ("valid", "payload", "ready")
        }
        super().__init__({"outer": Out(block.signature), **inside})

    def probes(self, paths: Mapping[str, str]) -> dict[str, str]:
        """For `prove`; paths : port of the block -> block and port inside it, as the netlist calls them."""
        return {
            f"inner_{i}_{part}": f"block.{paths[path]}__{part}"
            for i, path in enumerate(self.ports)
            for part in ("valid", "payload", "ready")
        }

    def elaborate(self, platform):
        m = Module()
        m.submodules.block = block = self.block
        wiring.connect(m, wiring.flipped(self.outer), block)
        for i, port in enumerate(self.ports.values()):
            for part in ("valid", "payload", "ready"):
                m.d.comb += Assert(getattr(self, f"inner_{i}_{part}") == Value.cast(getattr(port, part)))
        return m


def master_rule(m: Module, bus: Any) -> Value:
    """What AXI asks of a master: an address or data that was offered holds until it is taken."""
    channels = {"aw": ("awaddr", "awprot"), "w": ("wdata", "wstrb"), "ar": ("araddr", "arprot")}
    kept = Const(1)
    for channel, names in channels.items():
        valid, ready = getattr(bus, f"{channel}valid"), getattr(bus, f"{channel}ready")
        payload = Cat(getattr(bus, name) for name in names)
        waiting, before = Signal(name=f"{channel}_waiting"), Signal(len(payload), name=f"{channel}_before")
        m.d.sync += [waiting.eq(valid & ~ready), before.eq(payload)]
        kept = kept & (~waiting | (valid & (payload == before)))
    return kept


def held_while(m: Module, condition: Any, value: Any, name: str) -> None:
    """Assume that an input keeps its value in the clocks behind those with `condition`."""
    value = Value.cast(value)
    keep, before = Signal(name=f"{name}_keep"), Signal(len(value), name=f"{name}_before")
    m.d.sync += [keep.eq(condition), before.eq(value)]
    m.d.comb += Assume(~keep | (value == before))


def lists_rule(m: Module, lists: Any, start: Any) -> Value:
    """What `OuLists` says: the next list stays until the switch, the OU pointed at until the pointer moves."""
    shown = Cat(lists.ou, lists.ou_last)
    following = Cat(lists.next_empty, lists.next_planes)
    began, switched, stepped, complete, chosen = (
        Signal(name=f"lists_{n}") for n in ("began", "switched", "stepped", "complete", "chosen")
    )
    shown_before, next_before = Signal(len(shown)), Signal(len(following))
    m.d.sync += [
        began.eq(start),
        switched.eq(lists.switch),
        stepped.eq(lists.step),
        complete.eq(lists.next_ready),
        chosen.eq(lists.from_next),
        shown_before.eq(shown),
        next_before.eq(following),
    ]
    next_stays = ~complete | switched | (lists.next_ready & (following == next_before))
    pointed_at = Mux(chosen, Mux(switched, ~lists.from_next, lists.from_next & complete), ~lists.from_next)
    return began | (next_stays & (stepped | ~pointed_at | (shown == shown_before)))
