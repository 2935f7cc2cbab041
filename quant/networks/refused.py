"""Operators that the machine does not have, and why, by the names that PyTorch, ONNX and QONNX call them."""

from __future__ import annotations

#: (why, names); a name stands for all its spellings (LeakyReLU, leaky_relu, LeakyRelu) and dimensions.
REFUSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "a table covers inputs of both signs, and it has no value at 0 or below",
        ("Log", "Log2", "Log10", "Log1p", "Sqrt", "Rsqrt", "Reciprocal"),
    ),
    (
        "a function may depend on one number only, not on other channels",
        ("GLU", "Softmin", "Maxout"),
    ),
    (
        "statistics of the picture itself are not computed, only BatchNorm with running ones is folded",
        ("GroupNorm", "GroupNormalization", "LayerNormalization", "InstanceNorm", "InstanceNormalization",
         "RMSNorm", "LocalResponseNorm", "LRN", "LpNormalization", "MeanVarianceNormalization", "normalize"),
    ),
    (
        "a map cannot grow in height or width",
        ("ConvTranspose", "Upsample", "interpolate", "Resize", "PixelShuffle", "DepthToSpace", "MaxUnpool", "Expand",
         "Tile"),
    ),
    (
        "weights are programmed before the picture comes, so two tensors of the network cannot be multiplied",
        ("MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer", "scaled_dot_product_attention",
         "Attention", "bmm", "einsum", "Bilinear"),
    ),
    ("nothing is kept from one picture to the next", ("RNN", "LSTM", "GRU")),
    ("maps have two dimensions", ("Conv1d", "Conv3d", "MaxPool1d", "MaxPool3d", "AvgPool1d", "AvgPool3d")),
    (
        "ordinary operators between QuantizeLinear and DequantizeLinear say the same (QDQ format)",
        ("QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm", "ConvInteger", "MatMulInteger",
         "DynamicQuantizeLinear"),
    ),
    ("sums are rounded once, by the quantiser behind them", ("Trunc",)),
)  # fmt: skip


def _key(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("2d")


_WHY = {_key(name): why for why, names in REFUSED for name in names}


def because(name: str) -> str:
    """ ": why" for an operator that is known not to be there, "" for any other name."""
    return f": {_WHY[_key(name)]}" if _key(name) in _WHY else ""
