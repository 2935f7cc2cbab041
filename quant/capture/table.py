"""The page of operators, from the code: `python -m quant.capture.table --output docs/operators.md`.

What is supported is read from the tables in `quant/capture/operators/` and `quant/networks/onnx_operators/`; the
sentences of refusal are those that their methods raise.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from golden_model.command import command, console
from golden_model.files import write_text
from quant.capture.operators.tables import CALLS, MACHINE, MODULES
from quant.capture.operators.translator import Translator
from quant.networks.onnx_file import OPSETS
from quant.networks.onnx_operators.reader import OPERATORS, QUANTISERS, Reader
from quant.networks.refused import REFUSED

_HEAD = f"""# Operators

Written by `python -m quant.capture.table --output docs/operators.md` from the tables and sentences of the code; a test
compares. Dots in a sentence stand for what it found.

A network is a `torch.nn.Module` that torch.fx can trace, a `torch.export` program (FILE.pt2), whose ATen operators are
read as the functions of PyTorch that they come from, or an ONNX file of opset {OPSETS[0]} to {OPSETS[-1]}
(`pip install 'ohmloom[onnx]'`, and `'ohmloom[qonnx]'` for QONNX). A file becomes a PyTorch module of the layers below,
and every layer of it is compared with onnxruntime (QONNX: with its executor) on the user's first pictures. It has one
input (N, C, H, W) of real numbers with C, H and W fixed, any N, and one output. Constants, shapes and what is computed
from them are computed once. Layers are called as the file's nodes are.

## Supported

| on the machine | from PyTorch | from ONNX |
|---|---|---|
"""
_QUANTISED = """
## Quantised files

| of | machine |
|---|---|
| a weight behind `Quant` or `DequantizeLinear` | its integers less the zero point, a scale or one per output |
| a weight behind `BipolarQuant` | −1 or 1, 1 for 0, a scale or one per output |
| an activation behind `Quant`, or the pair of them | its width and range in place of calibrated ones |
| a narrow activation, as −7..7 of 4 bits | the same, in a [table](numbers.md) of the layer or addition before it |
| a map that the file leaves in floating point | calibrated, as in any network |
| the picture | the quantiser must be the pixels' own: 8 bits, and no other values than they have |
| the scores | a quantiser at the very end is left out |

Integers of weights are equal, always. Activations and scores are equal to those of the file's executor if every bias,
batch norm included, is a whole number of products of the two scales, as in QDQ files; otherwise it is rounded to one,
and an activation may be off by one. So may one with a zero point, which becomes part of the bias. Where a sum lies
exactly between two integers, the machine rounds up and ONNX to even; where it lies closer to there than the 16 bits of
a multiplier tell, either may happen.

"""


def page() -> str:
    lines = [
        f"| {MACHINE[method]} | {', '.join(torch_names(method))} | {', '.join(onnx_names(method))} |"
        for method in MACHINE
    ]
    text = _HEAD + "\n".join(lines) + "\n" + _QUANTISED
    text += "## Refused\n\n| operator | sentence |\n|---|---|\n"
    text += "".join(f"| {', '.join(names)} | … is not supported: {why} |\n" for why, names in REFUSED)
    text += "| anything else | … is not supported (supported: …) |\n\n"
    text += "## Refused with these arguments\n\n| operator | sentence |\n|---|---|\n"
    for method in MACHINE:
        readers = [(OPERATORS | QUANTISERS)[name] for name in onnx_names(method)]
        found = dict.fromkeys(s for f in (getattr(Translator, method, None), *readers) for s in sentences(f))
        name = next(iter([*torch_names(method), *onnx_names(method)]))
        text += "".join(f"| {name} | {sentence.replace('|', '/')} |\n" for sentence in found)
    return text


#: How Python writes its operators.
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "getitem": "[]"}


def torch_names(method: str) -> list[str]:
    """Modules, functions, `.methods` of tensors and signs, without those that write in place."""
    found = [module.__name__ for module, (name, _) in MODULES.items() if name == method]
    for call in CALLS.get(method, ()):
        name = f".{call}" if isinstance(call, str) else call.__name__.lstrip("_")
        if getattr(call, "__module__", "") == "_operator":
            name = _SIGNS.get(name, "_")
        found += [] if name.endswith("_") else [name]
    return list(dict.fromkeys(found))


def onnx_names(method: str) -> list[str]:
    return [name for name, reader in (OPERATORS | QUANTISERS).items() if MEANT[reader] == method]


#: Method of `Reader` -> what it means: a method of `Translator`.
MEANT: dict[Callable[..., Any], str] = {
    Reader.conv: "conv2d", Reader.gemm: "linear", Reader.matmul: "linear", Reader.batch_norm: "batch_norm",
    Reader.relu: "relu", Reader.leaky_relu: "function", Reader.prelu: "prelu", Reader.thresholded_relu: "function",
    Reader.hard_sigmoid: "hardtanh", Reader.elu: "function", Reader.selu: "function", Reader.gelu: "function",
    Reader.swish: "function", Reader.function: "function", Reader.formula: "function", Reader.power: "function",
    Reader.clip: "hardtanh", Reader.bipolar_quant: "quantised_matrix", Reader.quant: "quantised_activation",
    Reader.quantize_linear: "quantised_activation", Reader.dequantize_linear: "quantised_activation",
    Reader.max_pool: "max_pool2d", Reader.average_pool: "avg_pool2d", Reader.global_average_pool: "adaptive_avg_pool2d",
    Reader.global_max_pool: "adaptive_max_pool2d", Reader.reduce_mean: "mean", Reader.add: "add", Reader.total: "add",
    Reader.sub: "sub", Reader.mul: "mul", Reader.div: "div", Reader.concat: "cat", Reader.flatten: "reshape",
    Reader.reshape: "reshape", Reader.squeeze: "reshape", Reader.unsqueeze: "reshape", Reader.transpose: "reshape",
    Reader.shape: "reshape", Reader.slice: "getitem", Reader.split: "getitem", Reader.pad: "pad", Reader.same: "same",
    Reader.cast: "same", Reader.dropout: "dropout", Reader.softmax: "softmax",
}  # fmt: skip


def sentences(function: Callable[..., Any] | None) -> Iterable[str]:
    """What a method's `_require` and `_refuse` say."""
    if function is None:
        return
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("_require", "_refuse")
        ):
            said = node.args[-1]
            parts = said.values if isinstance(said, ast.JoinedStr) else [said]
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


@command
def app(
    output: Annotated[Path | None, typer.Option(help="File to write; default: print it.")] = None,
) -> None:
    """Write the page of operators: supported, how, and refused with which sentence."""
    if output is None:
        console.print(page(), markup=False, soft_wrap=True)
    else:
        write_text(output, page())


if __name__ == "__main__":
    app()
