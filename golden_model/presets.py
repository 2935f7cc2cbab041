"""The configurations that `--hardware` knows by name: `python -m golden_model.presets`."""

from __future__ import annotations

from golden_model.command import Json, command, results_console, table_of
from golden_model.config import PRESETS, HardwareConfig
from golden_model.files import write_json

#: What a column of the table shows.
_COLUMNS = (
    ("--hardware", lambda one: one[0]),
    ("machine", lambda one: one[1].machine + ", early stop" * one[1].early_stop),
    ("crossbar", lambda one: f"{one[1].rows} x {one[1].cols}"),
    ("OU", lambda one: f"{one[1].ou_rows} x {one[1].ou_cols}"),
    ("converter", lambda one: f"{one[1].adc_bits}" + " + sign" * one[1].pairs),
    ("weight", lambda one: f"{one[1].weight_bits} + sign"),
    ("pairs", lambda one: f"{one[1].crossbar_pairs:,}"),
    ("largest matrix", lambda one: f"{one[1].max_k:,} x {one[1].max_n:,}"),
    ("steps", lambda one: f"{one[1].max_layers:,}"),
    ("activations", lambda one: f"{one[1].activation_bytes:,} B"),
)


@command
def app(json_file: Json = None) -> None:
    """The configurations that --hardware knows by name. Every field of one: --json FILE, or golden_model/config.py."""
    presets: dict[str, HardwareConfig] = PRESETS
    results_console().print(table_of(None, _COLUMNS, presets.items()))
    if json_file is not None:
        write_json(json_file, {name: hardware.as_dict() for name, hardware in presets.items()})


if __name__ == "__main__":
    app()
