"""What the commands of quant share."""

from __future__ import annotations

import sys

from quant import pipeline


def test_a_command_is_kept_without_the_folders_of_this_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--data", "/some/where/cifar10.npz", "--block", "9x8", "--work", "a/b"])
    kept = pipeline.command_line("quant.train_network")
    assert kept == "python -m quant.train_network --data cifar10.npz --block 9x8 --work a/b"
