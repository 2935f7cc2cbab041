"""The same network with other converters, precision, activation widths, or on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.graph.network import Graph, build
from golden_model.graph.nodes import Add, AveragePool, Concat, Crossbar, Node
from golden_model.trq import AdcRegisters, min_count


def with_settings(
    graph: Graph,
    *,
    hardware: HardwareConfig | None = None,
    registers: Mapping[str, AdcRegisters] | None = None,
    counts_per_lsb: Mapping[str, float] | None = None,
    dynamic: Mapping[str, DynamicPrecision | None] | None = None,
    stop_bits: Mapping[str, int | None] | None = None,
    skip_zero_slices: bool | None = None,
    activation_bits: Mapping[str, int] | None = None,
    activation_ones: Mapping[str, int] | None = None,
) -> Graph:
    """The same network with other settings; integers are derived again from the real numbers.

    Parameters
    ----------
    hardware : another machine: block widths are taken anew, and converters become those of
        `lossless_registers` where `registers` says nothing.
    registers, counts_per_lsb (lambda), dynamic : by name of the crossbar node, for all its groups; nodes that are
        not named keep what they have, except that new registers without a lambda get lambda = 1.
    stop_bits : input bits after which outputs may stop, by name of the crossbar node, None for none; a machine without
        early stop has none.
    skip_zero_slices : for all layers. activation_bits : width of a node's output, 1..input_bits. activation_ones : most
        ones of one of its values (golden_model/few_ones.py), 0 for any.

    Raises ValueError for a name that the graph does not have or a setting that is not legal.
    """
    crossbars = {node.name for node in graph.crossbars}
    for what, names in (
        ("registers", registers),
        ("counts_per_lsb", counts_per_lsb),
        ("dynamic", dynamic),
        ("stop_bits", stop_bits),
    ):
        unknown = [name for name in names or {} if name not in crossbars]
        if unknown:
            raise ValueError(f"{what}: the graph has no crossbar layer {unknown[0]!r}")
    known = {node.name for node in graph.nodes if isinstance(node, Crossbar | Add | Concat | AveragePool)}
    for what, names in (("activation_bits", activation_bits), ("activation_ones", activation_ones)):
        unknown = [name for name in names or {} if name not in known]
        if unknown:
            raise ValueError(f"{what}: the graph has no node {unknown[0]!r} that requantises")
    for name, bits in (activation_bits or {}).items():
        if isinstance(bits, bool) or not 1 <= bits <= graph.hardware.input_bits:
            raise ValueError(f"activation_bits of {name} must be in 1..{graph.hardware.input_bits}, got {bits}")
    machine = graph.hardware if hardware is None else hardware
    changed_machine = machine != graph.hardware
    nodes: list[Node] = []
    for node in graph.nodes:
        if activation_bits and node.name in activation_bits:
            node = replace(node, encoding=replace(node.encoding, bits=activation_bits[node.name]))
        if activation_ones and node.name in activation_ones:
            try:
                node = replace(node, encoding=replace(node.encoding, ones=activation_ones[node.name]))
            except ValueError as error:
                raise ValueError(f"node {node.name}: {error}") from None
        if isinstance(node, Crossbar):
            changes: dict[str, Any] = {}
            if registers and node.name in registers:
                changes |= {"registers": registers[node.name], "counts_per_lsb": 1.0}
            elif changed_machine:
                changes |= {"registers": lossless_registers(machine), "counts_per_lsb": 1.0}
            if counts_per_lsb and node.name in counts_per_lsb:
                changes["counts_per_lsb"] = counts_per_lsb[node.name]
            if dynamic and node.name in dynamic:
                changes["dynamic"] = dynamic[node.name]
            if stop_bits and node.name in stop_bits:
                changes["stop_bits"] = stop_bits[node.name]
            if not machine.early_stop:
                changes["stop_bits"] = None
            if skip_zero_slices is not None:
                changes["skip_zero_slices"] = skip_zero_slices
            if "registers" in changes:
                try:
                    changes["registers"].check_on(machine)
                except ValueError as error:
                    raise ValueError(f"layer {node.name}: {error}") from None
            if "counts_per_lsb" in changes:
                changes["min_count"] = min_count(machine.adc_bits, changes["counts_per_lsb"])
            layers = [replace(layer, **changes) for layer in node.layers]
            if changed_machine:
                layers = [replace(x, block_widths=mapping.block_widths(x.weights, machine)) for x in layers]
            node = replace(node, layers=tuple(layers))
        nodes.append(node)
    return build(graph.name, machine, nodes, classes=graph.classes, info=graph.info)


def lossless_registers(hardware: HardwareConfig) -> AdcRegisters:
    """The uniform converter with all adc_bits bits, or the outward search of the pair machine; ValueError if adc_bits
    are too few for ou_rows rows."""
    if hardware.pairs:
        return AdcRegisters(mode="outward", n_r2=hardware.converter_bits)
    if hardware.adc_bits < hardware.ideal_bits:
        raise ValueError(
            f"{hardware.ou_rows} rows need adc_bits = {hardware.ideal_bits} to be lossless, got {hardware.adc_bits}"
        )
    return AdcRegisters(mode="uniform", n_r2=hardware.adc_bits)


def on_machine(graph: Graph, hardware: HardwareConfig) -> Graph:
    """The network on a machine, with lossless uniform converters, all bits of all slices streamed, no early stop."""
    names = [node.name for node in graph.crossbars]
    nothing = dict.fromkeys(names)
    changed = with_settings(graph, hardware=hardware, dynamic=nothing, stop_bits=nothing, skip_zero_slices=False)
    return with_settings(changed, registers=dict.fromkeys(names, lossless_registers(hardware)))
