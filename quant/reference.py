"""Integer graphs computed a second time with plain PyTorch operators, for lossless converters only.

Nothing is shared with golden_model.layer but the work of the host: sums come from torch's convolution on whole
numbers, pooling from torch's pooling. So equal results mean that mapping, conversion, accumulation and post-processing
are all right; and because no conversion is simulated, a whole test set takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from golden_model.engines.run_network import Progress
from golden_model.few_ones import nearest_level
from golden_model.graph.host import Host
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, MaxPool, Node, Reshape
from golden_model.graph.numbers import Rescale
from golden_model.trq import lossless

_FLOAT32_WHOLE = 1 << 24  # whole numbers up to here are exact in float32, in any order of summation


@torch.no_grad()
def exact_logits(graph: Graph, images: np.ndarray, *, progress: Progress | None = None) -> np.ndarray:
    """Logits (B, N) int64 of uint8 images (B, C, H, W), as `GraphRunner.run` gives them.

    Raises ValueError naming a layer whose converter or dynamic precision is lossy.
    """
    for node in graph.crossbars:
        for layer in node.layers:
            if not lossless(layer.registers, graph.hardware, layer.min_count):
                raise ValueError(f"layer {layer.name!r}: its converter is lossy, use the golden model")
            if layer.dynamic is not None and layer.dynamic.l_max and layer.dynamic.tau_sq:
                raise ValueError(f"layer {layer.name!r}: its dynamic precision is lossy, use the golden model")
    # So many images at a time that their maps stay near the cache.
    step = max(1, (1 << 20) // max(int(np.prod(node.shape)) for node in graph.nodes))
    return in_steps(partial(_logits, graph), images, step, progress)


def in_steps(
    compute: Callable[[np.ndarray], np.ndarray], images: np.ndarray, step: int, progress: Progress | None
) -> np.ndarray:
    """compute(images) (B, N), so many images (B, C, H, W) at a time."""
    parts = [compute(images[:step])]
    for start in range(step, len(images), step):
        if progress is not None:
            progress(start, len(images))
        parts.append(compute(images[start : start + step]))
    if progress is not None:
        progress(len(images), len(images))
    return np.concatenate(parts)


def _logits(graph: Graph, images: np.ndarray) -> np.ndarray:
    values: dict[str, Tensor] = {graph.image.name: torch.from_numpy(np.array(images)).float()}
    last_use = {name: node.name for node in graph.nodes for name in node.inputs}
    for node in graph.nodes[1:]:
        values[node.name] = _compute(node, [values[name] for name in node.inputs])
        for name in set(node.inputs):
            if last_use[name] == node.name:
                del values[name]
    output = graph.output
    result = values[output.name].flatten(1).to(torch.int64)
    whole = (isinstance(output, Crossbar) and output.last) or (isinstance(output, AveragePool) and output.sums)
    return (result if whole else result - output.encoding.zero).numpy()


def _compute(node: Node, inputs: list[Tensor]) -> Tensor:
    """Whole numbers in float32 maps (B, C, H, W), or float64 logits."""
    if isinstance(node, Crossbar):
        return _crossbar(node, inputs)
    x = inputs[0]
    if isinstance(node, MaxPool):
        w = node.window
        return F.max_pool2d(x, w.kernel, w.stride, w.pad, ceil_mode=w.ceil_mode)
    if isinstance(node, AveragePool):
        w = node.window
        (top, left), (height, width) = w.pad, x.shape[2:]
        right, below = w.room(width, 1) - left - width, w.room(height, 0) - top - height
        x = F.pad(x.double(), (left, right, top, below), value=node.input_zero)
        sums = F.avg_pool2d(x, w.kernel, w.stride, divisor_override=1)
        return sums - node.area * node.input_zero if node.sums else _rescale(node.rescale, [sums])
    if isinstance(node, Concat):
        return torch.cat([x if r is None else _rescale(r, [x]) for x, r in zip(inputs, node.rescales, strict=True)], 1)
    if isinstance(node, Add):
        return _looked_up(_rescale(node.rescale, inputs), node.table)
    if isinstance(node, Border):
        above, below, left, right = node.border
        zero = torch.from_numpy(node.values).float()[None, :, None, None]
        before, after = node.channels
        x = x[:, :, :: node.stride[0], :: node.stride[1]]
        inner = zero[:, before : before + x.shape[1]]
        x = F.pad(x - inner, (left, right, above, below)) + inner
        sides = [zero[:, :before], zero[:, before + inner.shape[1] :]]
        first, last = (z.expand(len(x), -1, *x.shape[2:]) for z in sides)
        return torch.cat([first, x, last], 1) if before or after else x
    if isinstance(node, Host):
        return torch.from_numpy(node.compute(x.to(torch.uint8).numpy())).float()
    if isinstance(node, Reshape):
        return x.reshape(len(x), *node.shape)
    raise TypeError(f"node {node.name}: {type(node).__name__} is not known here")


def _rescale(r: Rescale, inputs: list[Tensor]) -> Tensor:
    total = sum(x.to(torch.int64) * m for x, m in zip(inputs, r.multipliers, strict=True)) + r.offset
    y = _shift(total, r.shift).clamp(0, r.top)  # type: ignore[arg-type]
    return nearest_level(y, r.top.bit_length(), r.ones).float()


def _looked_up(y: Tensor, table: np.ndarray | None) -> Tensor:
    """What a table holds for whole numbers, of the same type; the numbers themselves without one."""
    return y if table is None else torch.from_numpy(table).to(y)[y.to(torch.int64)]


def _shift(x: Tensor, shift: int) -> Tensor:
    """(x + half) >> shift, in place."""
    return x.add_((1 << shift) >> 1).bitwise_right_shift_(shift)


def _crossbar(node: Crossbar, inputs: list[Tensor]) -> Tensor:
    first, groups = node.layers[0], len(node.layers)
    x = inputs[0].reshape(len(inputs[0]), first.channels * groups, first.height, first.width)
    # (K, N) of every group -> (N, C / groups, kh, kw)
    weight = torch.from_numpy(np.concatenate([layer.weights.T for layer in node.layers]))
    weight = weight.reshape(-1, first.channels, first.kernel_height, first.kernel_width)
    if first.pad:
        values = np.concatenate(
            [np.zeros(first.channels) if layer.pad_values is None else layer.pad_values for layer in node.layers]
        )
        border = torch.from_numpy(values).float()[None, :, None, None]
        x = F.pad(x - border, (first.pad,) * 4) + border
    largest = int(weight.abs().sum((1, 2, 3)).max()) * ((1 << first.input_bits) - 1)
    kind = torch.float32 if largest < _FLOAT32_WHOLE else torch.float64
    acc = F.conv2d(x.to(kind), weight.to(kind), stride=first.stride, groups=groups).to(torch.int64)
    height, width = first.out_height * first.pool, first.out_width * first.pool
    acc = acc[:, :, :height, :width].contiguous()

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(layer, name) for layer in node.layers]))[None, :, None, None]

    acc += column("bias")
    if node.last:
        return acc.double()
    acc *= column("multipliers")
    if len(inputs) > 1:
        acc += inputs[1].reshape(acc.shape).to(torch.int64) * node.residual_multiplier
    y = _shift(acc, first.shift).clamp_(0, (1 << first.output_bits) - 1)
    y = nearest_level(y, first.output_bits, first.output_ones)
    y = _looked_up(y, first.table).float()
    return F.max_pool2d(y, first.pool) if first.pool > 1 else y


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is the label's; the first of equal logits counts."""
    return float((logits.argmax(axis=1) == labels).mean())


def logit_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Squared error over mean square of real logits (B, N) without their means over the classes."""
    found, wanted = (real - real.mean(axis=1, keepdims=True) for real in (found, wanted))
    return float(((found - wanted) ** 2).sum() / max(float((wanted**2).sum()), 1e-300))
