"""Where the tensors, planes and tables of a lowered network lie, and what that needs of every capacity.

A tensor lies whole, C, H, W order, in a buffer of the one activation memory: its own, or that of the concatenation it
becomes a part of. Buffers are placed by liveness: two that are needed at the same time never overlap, except that a
sum may overwrite the residual it has just read, place by place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.graph.check import accumulator_bits_needed
from golden_model.image.lowering import PLACED, HostStep, Lowering, Place, Step, in_order
from golden_model.image.places import place_layer
from golden_model.registers import OFFSET_BITS, descriptor_fields
from golden_model.trq import RTL_MODES

#: Buffers begin at whole words of the activation memory.
_ALIGN = 4


@dataclass(frozen=True)
class Buffer:
    """A part of the activation memory: bytes base..base + size - 1 hold `tensors` during steps first..last.

    Steps of the host count, too (`in_order`). first is -1 for the image, which the host writes.
    """

    base: int
    size: int
    first: int
    last: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """What a network needs of a capacity; `step` is where, or needs most."""

    needed: int
    step: str | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """A lowered network with addresses, before anything is checked against capacities.

    steps, host_steps : with all fields, `offset` still in one piece. placement : of the crossbar steps' planes.
    pads : the pad table. lookups : the tables of activation functions. buffers : the memory map. image_base : where
    the image lies. needs : by field of `HardwareConfig`.
    """

    steps: tuple[Step, ...]
    host_steps: tuple[HostStep, ...]
    placement: mapping.Placement
    pads: tuple[int, ...]
    lookups: tuple[tuple[int, ...], ...]
    buffers: tuple[Buffer, ...]
    image_base: int
    needs: dict[str, Need]


# ---- activations --------------------------------------------------------------------------------
@dataclass
class _Life:
    """A buffer to place: its size, and the first and last step that need it."""

    size: int
    first: int
    last: int
    tensors: list[str]


def _lives(lowering: Lowering, *, in_place: bool) -> tuple[dict[str, str], dict[str, _Life]]:
    """Buffers and their lives; also the buffer of each tensor that has one, by name.

    in_place : a step may overwrite its residual if nothing reads that buffer afterwards and the view is exactly the
    target.
    """
    image, order = lowering.network.image.name, in_order(lowering.steps, lowering.host_steps)
    lives = {image: _Life(lowering.sizes[image], -1, -1, [image])}
    for index, step in enumerate(order):
        for place in step.places:
            name = lowering.buffer(place).tensor
            life = lives.setdefault(name, _Life(lowering.sizes[name], index, index, [name]))
            life.last = index
    owner = {name: name for name in lives}
    if not in_place:
        return owner, lives
    by_target: dict[str, list[int]] = {}
    for index, step in enumerate(order):
        if step.target is not None:
            by_target.setdefault(lowering.buffer(step.target).tensor, []).append(index)
    for target, indices in by_target.items():
        steps = [step for step in (order[index] for index in indices) if isinstance(step, Step)]
        if len(steps) < len(indices) or not all(_overwrites(lowering, step) for step in steps):
            continue
        residuals = {lowering.buffer(step.residual).tensor for step in steps if step.residual is not None}
        sources = {lowering.buffer(step.source).tensor for step in steps}
        (residual,) = residuals if len(residuals) == 1 else (None,)
        if residual is None or residual in sources or residual == target:
            continue
        merged = owner[residual]
        old, new = lives[merged], lives[target]
        # The last reader of everything in that buffer is this sum, and both fill the whole of it.
        if old.last == indices[-1] and old.size == new.size and new.first == indices[0]:
            lives[merged] = _Life(old.size, old.first, max(old.last, new.last), old.tensors + new.tensors)
            del lives[target]
            owner = {name: merged if held == target else held for name, held in owner.items()}
    return owner, lives


def _overwrites(lowering: Lowering, step: Step) -> bool:
    """Whether a step's residual view is exactly its target, were both in one buffer."""
    if step.residual is None or step.target is None:
        return False
    values = step.fields
    same = {
        "residual_plane": values["out_plane"],
        "residual_row": values["out_width"],
        "residual_column": 1,
        "residual_first": 0,
        "residual_channels": values["outputs"],
    }
    offsets = lowering.buffer(step.residual).offset, lowering.buffer(step.target).offset
    return offsets[0] == offsets[1] and all(values[name] == value for name, value in same.items())


def _first_fit(lives: Mapping[str, _Life], order: Iterable[str]) -> tuple[dict[str, int], int]:
    """Addresses, each the lowest that is free throughout its life, in this order; and the bytes needed."""
    placed: list[tuple[_Life, int]] = []
    bases: dict[str, int] = {}
    for name in order:
        life, base = lives[name], 0
        for other, at in sorted(
            ((o, at) for o, at in placed if o.first <= life.last and life.first <= o.last), key=lambda x: x[1]
        ):
            if base + life.size <= at:
                break
            base = max(base, -(-(at + other.size) // _ALIGN) * _ALIGN)
        bases[name] = base
        placed.append((life, base))
    return bases, max(base + lives[name].size for name, base in bases.items())


def _place_buffers(lowering: Lowering) -> tuple[dict[str, int], tuple[Buffer, ...], int]:
    """Address of every buffer by tensor name, the memory map, and the bytes needed; the best of a few orders."""
    best: tuple[int, dict[str, int], dict[str, str], dict[str, _Life]] | None = None
    for in_place in (True, False):
        owner, lives = _lives(lowering, in_place=in_place)
        for key in (
            lambda life: (-life.size, life.first),
            lambda life: (-life.size * (life.last - life.first + 1), life.first),
            lambda life: (life.first, -life.size),
            lambda life: (life.first - life.last, -life.size),
        ):
            bases, needed = _first_fit(lives, sorted(lives, key=lambda name, key=key, lives=lives: key(lives[name])))
            if best is None or needed < best[0]:
                best = needed, bases, owner, lives
    assert best is not None
    needed, bases, owner, lives = best
    buffers = sorted(
        (Buffer(bases[name], life.size, life.first, life.last, tuple(life.tensors)) for name, life in lives.items()),
        key=lambda buffer: (buffer.first, buffer.base),
    )
    return {name: bases[held] for name, held in owner.items()}, tuple(buffers), needed


# ---- everything ---------------------------------------------------------------------------------
def place(lowering: Lowering) -> Layout:
    """Place a network in unlimited memories."""
    hardware, steps = lowering.network.hardware, lowering.steps
    bases, buffers, activation_bytes = _place_buffers(lowering)

    def address(place: Place | None) -> int:
        if place is None:
            return 0
        held = lowering.buffer(place)
        return bases[held.tensor] + held.offset

    pads: list[int] = []
    pad_bases: dict[tuple[int, ...], int] = {(): 0}  # equal vectors are stored once
    lookups: dict[tuple[int, ...], int] = {(): 0}  # and equal tables
    placed: list[mapping.LayerPlacement] = []
    made: list[Step] = []
    pairs = widths = channels = 0
    for step in steps:
        if step.pads not in pad_bases:
            pad_bases[step.pads] = len(pads)
            pads += step.pads
        fields = dict.fromkeys(PLACED, 0) | {
            "source": address(step.source),
            "target": address(step.target),
            "residual_base": address(step.residual),
            "pad_base": pad_bases[step.pads],
            "lookup": lookups.setdefault(step.table, len(lookups)),
        }
        if not hardware.looks_up:
            del fields["lookup"]
        if step.layer is not None:
            fields |= {"crossbar_base": pairs, "width_base": widths, "channel_base": channels}
            placed.append(place_layer(step.layer.block_widths, hardware, crossbar_base=pairs))
            pairs += placed[-1].pairs
            widths += int(np.size(step.layer.block_widths))
            channels += step.layer.outputs
        made.append(replace(step, fields=step.fields | fields))

    def most(what: Callable[[Step], int]) -> Need:
        largest = max(steps, key=what)
        return Need(what(largest), largest.name)

    host_steps = tuple(
        replace(step, read_base=address(step.source), write_base=address(step.target)) for step in lowering.host_steps
    )
    order = in_order(made, host_steps)
    pairs_of = {one.name: used.pairs for one, used in zip((x for x in steps if x.layer), placed, strict=True)}
    live = [sum(b.size for b in buffers if b.first <= index <= b.last) for index in range(len(order))]
    needs = {
        "activation_bytes": Need(activation_bytes, order[int(np.argmax(live))].name),
        "crossbar_pairs": Need(pairs, most(lambda x: pairs_of.get(x.name, -1)).step),
        "max_k": most(lambda x: x.layer.k if x.layer else 0),
        "max_n": most(lambda x: x.shape[0] if x.layer else x.shape[0] * x.fields["out_plane"] * x.fields["last"]),
        "max_layers": Need(len(steps)),
        "width_entries": Need(widths, most(lambda x: x.layer.block_widths.size if x.layer else 0).step),
        "channel_entries": Need(channels, most(lambda x: x.shape[0] if x.layer else 0).step),
        "pad_entries": Need(len(pads), most(lambda x: len(x.pads)).step),
        "activation_tables": Need(len(lookups) - 1, most(lambda x: lookups[x.table]).step),
        "accumulator_bits": most(lambda x: accumulator_bits_needed(x.layer, hardware) if x.layer else 0),
    }
    placement = mapping.Placement(tuple(placed), pairs)
    image_base = address(Place(lowering.network.image.name))
    return Layout(tuple(made), host_steps, placement, tuple(pads), tuple(lookups)[1:], buffers, image_base, needs)


# ---- limits -------------------------------------------------------------------------------------
def problems_of(layout: Layout, hardware: HardwareConfig) -> list[str]:
    """What does not fit, a phrase each."""
    problems = []
    for name, need in layout.needs.items():
        has = getattr(hardware, name)
        if need.needed > has:
            where = f", most of all for step {need.step}" if need.step else ""
            problems.append(f"it needs {name} = {need.needed}{where}, the hardware has {has}")
    widths = {f.name: f.bits for f in descriptor_fields(hardware) if f.name not in PLACED}
    beyond: dict[str, tuple[int, str, int]] = {}
    for step in layout.steps:
        values = step.fields | {"kernel_area": step.fields["kernel_height"] * step.fields["kernel_width"]}
        limits = {name: (1 << bits) - 1 for name, bits in widths.items() if not name.startswith("offset_")}
        limits |= dict.fromkeys({"stream_bits", "out_bits", "out_ones"} & set(limits), hardware.input_bits)
        limits |= {"pad_value": (1 << hardware.input_bits) - 1, "residual_value": (1 << hardware.input_bits) - 1}
        limits["kernel_area"] = limits["kernel_height"] if step.layer is None else values["kernel_area"]
        for name, limit in limits.items():
            value = values[name]
            if value > limit and (name not in beyond or value > beyond[name][0]):
                beyond[name] = (value, step.name, limit)
            if value < 0:
                problems.append(f"step {step.name}: {name} must be at least 0, got {value}")
        bits = 32 if values["last"] else OFFSET_BITS
        if not -(1 << (bits - 1)) <= values["offset"] < 1 << (bits - 1):
            problems.append(f"step {step.name}: its offset {values['offset']} does not fit {bits} bits")
        problems += _layer_problems(step, hardware)
    problems += [
        f"step {where}: {name} must be at most {limit}, got {value}" for name, (value, where, limit) in beyond.items()
    ]
    top = max(layout.pads, default=0)
    if top >> hardware.input_bits:
        problems.append(f"a border value must be at most {(1 << hardware.input_bits) - 1}, got {top}")
    return problems


def _layer_problems(step: Step, hardware: HardwareConfig) -> list[str]:
    """What the tile cannot do of a crossbar step."""
    layer, problems = step.layer, []
    if layer is None:
        return []
    if not layer.registers.in_hardware(hardware):  # of the pair machine `check_layer` refuses all others
        bound = "" if layer.registers.column_bound_bits is None else " with a bound"
        problems.append(
            f"step {step.name}: the hardware has no conversion of mode {layer.registers.mode!r}{bound}, "
            f"only {' and '.join(map(repr, RTL_MODES[hardware.machine]))} without one"
        )
    needed = accumulator_bits_needed(layer, hardware)
    if layer.last and 32 < needed <= hardware.accumulator_bits:
        problems.append(f"step {step.name}: its logits need {needed} bits, the hardware has 32")
    return problems
