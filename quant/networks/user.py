"""The user's code, run in one place: whatever goes wrong in it is one ValueError of one sentence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn


def make(where: str) -> nn.Module:
    """The network that `FILE.py:NAME` makes; NAME is a class, a function without arguments or a network.

    The file may import its neighbours: its folder is searched first while it is imported and NAME is made.
    """
    file, _, name = where.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--model: {file} is not a file; a network of your own is FILE.py:NAME")
    known = path.stem in sys.modules  # a file may be called numpy.py, and is not numpy all the same
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_your_own" if known else path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--model: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[module.__name__] = module
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, name)
        made = made if isinstance(made, nn.Module) else made()
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ValueError(f"--model: {where} cannot be made: {_reason(error)}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(made, nn.Module):
        raise ValueError(f"--model: {where} must give a torch.nn.Module, got {type(made).__name__}")
    check_numbers(made)
    return made


def numbers(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a state dict may hold anything besides."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check_numbers(model: nn.Module) -> None:
    """ValueError naming a parameter or buffer that is no plain tensor of numbers."""
    for name, tensor in numbers(model).items():
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"the network's {name!r} has no shape yet: run it once on a picture where it is made")
        if not is_plain(tensor):
            raise ValueError(
                f"the network's {name!r} is sparse, quantised or without values; it must be a plain tensor"
            )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor just holds its values, one after the other."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def call(model: nn.Module, x: Tensor) -> Tensor:
    """model(x), checked: one tensor of finite or other numbers with the batch of `x` in front, (B, ...).

    ValueError with one sentence for any exception of the network, and for anything else that it returns.
    """
    name, given = type(model).__name__, "x".join(map(str, x.shape[1:]))
    try:
        result = model(x)
    except (Exception, SystemExit) as error:
        raise ValueError(f"the network {name} cannot be run on pictures of {given}: {_reason(error)}") from error
    if not isinstance(result, Tensor):
        raise ValueError(f"the network {name} must return one tensor, it returns a {type(result).__name__}")
    if result.ndim < 2 or len(result) != len(x) or result.numel() == 0:
        raise ValueError(
            f"the network {name} must return one row for each of {len(x)} pictures, it returns {tuple(result.shape)}"
        )
    if result.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise ValueError(f"the network {name} must return real numbers, it returns {result.dtype}")
    return result


def _reason(error: BaseException) -> str:
    """The error in one line, not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
