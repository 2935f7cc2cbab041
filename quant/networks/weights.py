"""Weights from a file: PyTorch state dicts, .npz and .safetensors; the one loader of all commands.

Training code wraps what it saves: in a dictionary beside an epoch and an optimiser, and with a prefix before every
name. Both are taken off where the names then fit the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant import stages
from quant.networks import user

#: Names under which a checkpoint may hold its state dict.
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
#: Put before all names by nn.DataParallel, torch.compile and modules that hold the network.
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors by the names in the file. ValueError says in one sentence what is wrong with the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.suffix in (kinds := {".onnx": "an ONNX network", ".pt2": "a torch.export program"}):
        raise ValueError(
            f"{path} is {kinds[path.suffix]}; weights come from a PyTorch state dict, .npz or .safetensors"
        )
    found = _read(path)
    while isinstance(found, Mapping) and (inner := [k for k in CONTAINERS if isinstance(found.get(k), Mapping)]):
        found = found[inner[0]]
    if not isinstance(found, Mapping) or not found or not all(isinstance(t, Tensor) for t in found.values()):
        held = f"the keys {_some(map(str, found))}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise ValueError(
            f"{path} does not hold a state dict, a mapping from names to tensors, by itself or under"
            f" {', '.join(CONTAINERS)}: it holds {held}"
        )
    return {str(name): tensor for name, tensor in found.items()}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return stages.unpacked(path)
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs the package safetensors") from error
    except Exception as error:  # a damaged file raises almost anything
        text = str(error)
        if any(word in text for word in ("GLOBAL", "_rebuild", "TorchScript")):
            raise ValueError(
                f"{path} cannot be read as weights: it holds a whole network or other Python objects, whose code is"
                f" not run; save model.state_dict() instead"
            ) from error
        checked = path.suffix in (".npz", ".safetensors") or isinstance(error, ValueError)
        if not checked:  # PyTorch's words are many, and for programmers
            raise ValueError(f"{path} cannot be read as weights: it is no PyTorch file, or it is damaged") from error
        reason = text.strip().splitlines()[0].rstrip(".") if text.strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read as weights: {reason}") from error


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Fill a network from a file; ValueError names the parameters that are missing, unknown or of another shape.

    Prefixes are removed where more names fit without them. Counters of batch norms (num_batches_tracked) may be
    missing.
    """
    wanted = model.state_dict()
    given = _without_prefixes(read_weights(path), wanted)
    missing = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    unknown = [n for n in given if n not in wanted]
    if missing or unknown:
        parts = [f"it has no {_some(missing)}"] if missing else []
        parts += [f"{type(model).__name__} has no {_some(unknown)}"] if unknown else []
        raise ValueError(f"{path} does not fit the network: {'; '.join(parts)}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{path} does not fit the network: {name} must have shape {tuple(wanted[name].shape)},"
                f" it has {tuple(tensor.shape)}"
            )
        if not user.is_plain(tensor):
            raise ValueError(f"{path} does not fit the network: {name} is sparse, quantised or without values")
        if wanted[name].is_floating_point() and not tensor.is_floating_point():
            raise ValueError(f"{path} does not fit the network: {name} must hold real numbers, it holds {tensor.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path} does not fit the network: {name} holds a value that is not a finite number")
    model.load_state_dict({**wanted, **given})


def outputs_of(path: Path | str, model: nn.Module) -> int:
    """Outputs of a network like `model` whose weights these are: the length of its last parameter."""
    wanted = model.state_dict()
    last = list(wanted)[-1]
    found = _without_prefixes(read_weights(path), wanted)
    return len(found[last] if last in found and found[last].ndim else wanted[last])


def _without_prefixes(given: dict[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same tensors without prefixes, taken off one after the other as long as more names fit."""

    def fitting(names: Iterable[str]) -> int:
        return sum(name in wanted for name in names)

    seen: list[dict[str, Tensor]] = [given]
    for _ in range(4):  # module._orig_mod.model.x
        for prefix in PREFIXES:
            stripped = {name.removeprefix(prefix): tensor for name, tensor in seen[-1].items()}
            if len(stripped) == len(given) and stripped.keys() != seen[-1].keys():
                seen.append(stripped)
    return max(seen, key=fitting)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
