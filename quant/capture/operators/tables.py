"""Which operators of PyTorch are supported, and what each one becomes on the machine."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from quant.networks.layers import QuantActivation, QuantMatrix, RangeActivation
from quant.networks.tokens import SelfAttention

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, ReLU6, Hardswish, SiLU, GELU, LeakyReLU, Sigmoid, Tanh and other functions of one"
    " number, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, addition, cat, flatten,"
    " view, reshape, mean over height and width, split, chunk and shuffles of channels, Dropout, Identity"
)
#: Modules that are a function of one number.
FUNCTIONS: tuple[type[nn.Module], ...] = (
    nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink,
    nn.Threshold,
)  # fmt: skip
_NORM = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
#: Module -> method of `Translator`, and the module's attributes that it takes behind the tensor, in its order.
MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.Conv2d: ("conv2d", ("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode")),
    nn.Linear: ("linear", ("weight", "bias")),
    nn.BatchNorm2d: ("batch_norm", _NORM),
    nn.BatchNorm1d: ("batch_norm", _NORM),
    nn.ReLU: ("relu", ()),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),  # ReLU6 is one
    **dict.fromkeys(FUNCTIONS, ("function", ())),
    nn.PReLU: ("prelu", ("weight",)),
    nn.MaxPool2d: ("max_pool2d", ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    nn.AvgPool2d: (
        "avg_pool2d",
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", ("output_size",)),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", ("output_size", "return_indices")),
    nn.LayerNorm: ("layer_norm", ("normalized_shape", "weight", "bias", "eps")),
    SelfAttention: ("attention", ("heads",)),
    nn.ZeroPad2d: ("pad", ("padding",)),
    nn.Flatten: ("reshape", ()),
    nn.ChannelShuffle: ("channel_shuffle", ("groups",)),
    nn.Dropout: ("dropout", ("p", "training")),
    nn.Dropout2d: ("dropout", ("p", "training")),
    nn.Identity: ("same", ()),
    nn.Softmax: ("softmax", ()),
    nn.LogSoftmax: ("softmax", ()),
    QuantMatrix: ("quantised_matrix", ()),  # asks the module itself
    QuantActivation: ("quantised_activation", ("clip", "bits", "ones")),
    RangeActivation: ("range_activation", ("steps", "low", "high")),
}
#: Method of `Translator` -> the functions, and the names of tensor methods, that it translates.
CALLS: dict[str, tuple[Any, ...]] = {
    "conv2d": (F.conv2d, torch.conv2d),
    "linear": (F.linear,),
    "batch_norm": (F.batch_norm,),
    "layer_norm": (F.layer_norm, torch.layer_norm),
    "relu": (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    "relu6": (F.relu6,),
    "hardtanh": (F.hardtanh,),
    "clamp": (torch.clamp, "clamp", "clamp_"),
    "function": (
        F.leaky_relu,
        F.leaky_relu_,
        F.rrelu,
        F.elu,
        F.elu_,
        F.selu,
        torch.selu,
        F.celu,
        F.gelu,
        F.silu,
        F.mish,
        F.hardswish,
        F.hardsigmoid,
        F.sigmoid,
        torch.sigmoid,
        torch.sigmoid_,
        F.tanh,
        torch.tanh,
        torch.tanh_,
        F.softplus,
        F.softsign,
        F.logsigmoid,
        F.hardshrink,
        F.softshrink,
        F.tanhshrink,
        F.threshold,
        torch.erf,
        torch.exp,
        torch.abs,
        torch.square,
        torch.sign,
        torch.pow,
        operator.pow,
        "sigmoid",
        "sigmoid_",
        "tanh",
        "tanh_",
        "erf",
        "exp",
        "abs",
        "square",
        "sign",
        "pow",
    ),
    "prelu": (F.prelu, torch.prelu),
    "max_pool2d": (F.max_pool2d, torch.max_pool2d),
    "avg_pool2d": (F.avg_pool2d,),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d,),
    "adaptive_max_pool2d": (F.adaptive_max_pool2d,),
    "mean": (torch.mean, "mean"),
    "add": (operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__iadd__"),
    "sub": (operator.sub, operator.isub, torch.sub, "sub", "sub_"),
    "mul": (operator.mul, operator.imul, torch.mul, "mul", "mul_"),
    "div": (operator.truediv, operator.itruediv, torch.div, "div", "div_"),
    "cat": (torch.cat, torch.concat, torch.concatenate),
    "reshape": (torch.flatten, torch.reshape, torch.squeeze, "flatten", "view", "reshape", "squeeze"),
    "same": ("contiguous",),
    "transpose": (torch.transpose, "transpose"),
    "permute": (torch.permute, "permute"),
    "channel_shuffle": (F.channel_shuffle, torch.channel_shuffle),
    "dropout": (F.dropout, F.dropout2d),
    "softmax": (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"),
    "getitem": (operator.getitem,),
    "pad": (F.pad,),
}
#: Give several tensors, which getitem takes.
PARTS = (torch.split, torch.chunk, "split", "chunk")
#: Method of `Translator` -> what it becomes on the machine (docs/operators.md).
MACHINE: dict[str, str] = {
    "conv2d": "crossbar layers, one per group; unequal borders are a step before",
    "linear": "a crossbar layer whose kernel is the whole map, or one pixel for tokens (B, T, C)",
    "batch_norm": "folded into the layer before; elsewhere a depthwise layer of one pixel",
    "layer_norm": "work of the host, for tokens (B, T, C)",
    "attention": "work of the host; of one tensor that holds q, k and v (quant/networks/tokens.py)",
    "relu": "the clamp of the post-processing",
    "relu6": "the clamp of the post-processing, with an upper end",
    "hardtanh": "the clamp of the post-processing, to a range that holds 0",
    "clamp": "the clamp of the post-processing, to a range that holds 0",
    "function": "a table, in the post-processing of the layer or addition before, otherwise a step; functions of one"
    " tensor that are multiplied or added (x * sigmoid(x)) become one",
    "prelu": "a table for one slope; for a slope per channel two layers of one pixel, of both sides and of their sum",
    "quantised_matrix": "a crossbar layer with the integers that were trained",
    "range_activation": "the clamp of the post-processing, its width and range as given; a narrow one is a table",
    "quantised_activation": "the clamp of the post-processing, its width and range as given",
    "max_pool2d": "in the layer's walk where kernel and stride are equal, otherwise a step",
    "adaptive_max_pool2d": "as maximum pooling, for sizes that divide",
    "avg_pool2d": "a step: sum, multiplication, shift",
    "adaptive_avg_pool2d": "as average pooling, for sizes that divide",
    "mean": "as average pooling, over height and width",
    "add": "a residual in the post-processing of the larger convolution; a constant goes into the layer before",
    "sub": "a constant per channel: into the layer before",
    "mul": "a constant per channel: into the layer before; functions of one tensor: a table",
    "div": "a constant per channel: into the layer before",
    "cat": "a concatenation of channels, brought to one scale",
    "getitem": "a step that picks rows and columns; channels (also of split, chunk) go into the convolution behind",
    "transpose": "a shuffle of channels between two views: into the convolution behind, or a layer of ones",
    "permute": "a shuffle of channels between two views: into the convolution behind, or a layer of ones",
    "channel_shuffle": "into the convolution behind, or a layer of ones",
    "pad": "a step that adds zeros; an equal border goes into the convolution",
    "reshape": "nothing, the same numbers in the same order",
    "same": "nothing",
    "dropout": "nothing",
    "softmax": "left out at the very end; predictions stay the same",
}
_METHOD_OF = {call: method for method, calls in CALLS.items() for call in calls}


def method_of(node: fx.Node, module: fx.GraphModule) -> tuple[str | None, tuple[Any, ...]]:
    """The method of `Translator` for a node, None for none, and what it takes of a module besides the tensor."""
    if node.op != "call_module":
        return _METHOD_OF.get(node.target), ()
    called = module.get_submodule(str(node.target))
    method, names = next((entry for kind, entry in MODULES.items() if isinstance(called, kind)), (None, ()))
    return method, tuple(getattr(called, name) for name in names)
