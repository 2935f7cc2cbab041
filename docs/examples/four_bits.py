"""Accuracy of a trained network with a 4-bit converter, by how many rows are on at once: 500 test digits."""

from __future__ import annotations

import numpy as np

from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import with_settings
from golden_model.image import archive
from golden_model.trq import AdcRegisters
from quant.data import sets

network, digits = archive.load("quant/trained/lenet5-s0/network.graph"), sets.load()
pictures, labels = digits.test_images[:500], digits.test_labels[:500]


def measure(name: str, hardware: HardwareConfig, registers: AdcRegisters, counts_per_lsb: float = 1.0) -> None:
    names = [node.name for node in network.crossbars]
    changed = with_settings(network, hardware=hardware)
    changed = with_settings(
        changed, registers=dict.fromkeys(names, registers), counts_per_lsb=dict.fromkeys(names, counts_per_lsb)
    )
    logits, events = GraphRunner(changed).run(pictures)
    right = (logits.argmax(1) == labels).mean()
    total = events.sum()
    each = np.sum(total.ad_operations) / (np.sum(total.conversions_r1) + np.sum(total.conversions_r2))
    print(f"{name:62}{right:7.2%}{each:7.2f} decisions")


measure("128 rows, 8 bits: every count has its code", ISAAC, AdcRegisters(mode="uniform", n_r2=8))
measure("128 rows, 4 bits over all counts: steps of 16", ISAAC, AdcRegisters(mode="uniform", n_r2=4))
measure("128 rows, 4 bits over counts 0 to 15", ISAAC, AdcRegisters(mode="uniform", n_r2=4), 1 / 16)
measure("128 rows, 4 bits over 0 to 15, twin range: “is it 0?” first", ISAAC, AdcRegisters(mode="twin", n_r2=4), 1 / 16)
measure("9 rows, 4 bits: every count has its code", PAPER, AdcRegisters(mode="uniform", n_r2=4))
measure("9 rows, 3 bits over all counts: steps of 2", PAPER, AdcRegisters(mode="uniform", n_r2=3))
measure("9 rows, 4 bits, twin range: “is it 0?” first", PAPER, AdcRegisters(mode="twin", n_r2=4))
