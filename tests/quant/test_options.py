"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from typer.testing import CliRunner

from golden_model.command import command
from golden_model.config import PAPER, PRESETS, TINY
from golden_model.graph.settings import on_machine, with_settings
from golden_model.image import program
from quant import options
from quant.options import read_hardware
from quant.settings import check, setting
from tests.golden_model.random_graphs import random_network


def test_hardware_is_a_preset_or_what_differs_from_one(tmp_path):
    file = tmp_path / "h.json"
    assert read_hardware("tiny") == TINY
    file.write_text('{"rows": 64}')
    assert read_hardware(str(file)) == replace(PAPER, rows=64)
    file.write_text('{"preset": "tiny", "cols": 32}')
    assert read_hardware(str(file)) == replace(TINY, cols=32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"preset": "huge"}', "preset must be one of tiny, "),
        ('{"row": 64}', "unknown fields \\['row'\\]$"),
        ('{"rows": 0}', r"HardwareConfig\.rows must be in 1\.\."),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_wrong_hardware_file_is_refused(tmp_path, text, message):
    (tmp_path / "h.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hardware(str(tmp_path / "h.json"))


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"--hardware must be one of tiny, .* or a \.json file, got 'huge'"):
        read_hardware("huge")


@dataclass(frozen=True, kw_only=True)
class Oven:
    heat: float = setting(180.0, "Degrees.", 50, 250)
    fan: bool = setting(False, "Move the air.")
    shelf: str = setting("middle", "Where.", among=("top", "middle"))
    note: str = setting("none", "")

    def __post_init__(self) -> None:
        check(self)


def bake(*arguments, optional=False):
    """(exit status, output, what the command got) of a command with the options of an oven."""
    got = []

    @command
    @options.takes("oven", Oven, optional=optional)
    def app(cake: str, oven: Oven) -> None:
        """Bake."""
        got.append((cake, oven))

    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output, *got


def test_a_command_gets_the_dataclass_of_its_options():
    assert bake("pie", "--heat", "200", "--fan")[2] == ("pie", Oven(heat=200.0, fan=True))
    assert bake("pie")[2] == ("pie", Oven())


def test_options_without_defaults_give_what_was_given():
    assert bake("pie", "--no-fan", optional=True)[2] == ("pie", {"fan": False})


def test_a_field_without_a_help_text_is_no_option():
    status, words = bake("--help")[:2]
    assert status == 0
    assert "Degrees." in words
    assert "--note" not in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--heat", "300"), "error: --heat must be in 50..250, got 300.0"),
        (("--heat", "nan"), "error: --heat must be in 50..250, got nan"),
        (("--shelf", "floor"), "error: --shelf must be one of top, middle, got 'floor'"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(arguments, message):
    assert bake("pie", *arguments)[:2] == (2, message + "\n")


def test_a_range_can_depend_on_something_else():
    check(Oven(heat=90.0), heat=(80, 100))
    with pytest.raises(ValueError, match=r"--heat must be in 80\.\.100, got 180\.0"):
        check(Oven(), heat=(80, 100))


def test_what_cannot_be_printed_is_spelled_out_in_errors():
    @command
    def app() -> None:
        raise ValueError("layer a\x1b[31m\u202eb\n is too hot")

    done = CliRunner().invoke(app, [])
    assert (done.exit_code, done.output) == (2, r"error: layer a\x1b[31m\u202eb is too hot" + "\n")


# ---- the machine of a network -------------------------------------------------------------------
def test_a_machine_that_is_made_keeps_the_main_data_path_of_the_network():
    planes = random_network(3)
    pairs = with_settings(planes, hardware=replace(planes.hardware, machine="pairs"))
    assert options.fitted(planes, options.Automatic.AUTO).hardware.machine == "planes"
    assert options.fitted(pairs, options.Automatic.AUTO).hardware.machine == "pairs"


@pytest.mark.parametrize("machine", ["planes", "pairs"])
def test_auto_pairs_makes_a_pair_machine_for_a_network_that_fits_none(machine):
    planes = on_machine(random_network(3), replace(PAPER, max_k=1, crossbar_pairs=1))
    network = with_settings(planes, hardware=replace(planes.hardware, machine=machine))
    with pytest.raises(ValueError, match=f"--hardware auto{'-pairs' if machine == 'pairs' else ''} makes"):
        options.fitted(network, network.hardware)
    made = options.fitted(network, options.machine("auto-pairs"))
    assert made.hardware == program.fitting(network, PRESETS["paper-pairs"])
    assert program.plan(made).hardware.machine == "pairs"


def test_converters_of_the_other_machine_are_not_kept():
    planes = on_machine(random_network(3), PAPER)
    pairs = options.fitted(planes, replace(program.fitting(planes, PAPER), machine="pairs", crossbar_pairs=1000))
    assert {layer.registers.mode for layer in pairs.layers} == {"outward"}
    back = options.fitted(pairs, replace(pairs.hardware, machine="planes"))
    assert {layer.registers.mode for layer in back.layers} == {"uniform"}
