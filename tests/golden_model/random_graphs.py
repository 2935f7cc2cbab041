"""Small random networks of every kind of node, for tests that compare runner, interpreter and hardware.

One generator, two sources of choices: hypothesis, so that failures shrink, or a seed. Networks stay small: a few
hundred windows, tens of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from golden_model import trq
from golden_model.config import TINY, HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.graph.host import AddConstant, Attention, Host, LayerNorm
from golden_model.graph.network import Graph, build
from golden_model.graph.nodes import (
    Add,
    AveragePool,
    Border,
    Concat,
    Crossbar,
    Image,
    MaxPool,
    Node,
    Reshape,
)
from golden_model.graph.numbers import Encoding, Lookup, Window
from golden_model.pairs.search import search_of
from golden_model.trq import AdcRegisters

#: TINY and a 9 x 8 machine, with room for every network of this file.
SMALL = replace(
    TINY,
    crossbar_pairs=256,
    max_k=512,
    max_n=512,
    max_layers=64,
    activation_bytes=1 << 14,
    width_entries=4096,
    channel_entries=1024,
    pad_entries=512,
)
NINE = HardwareConfig(
    rows=27,
    cols=32,
    crossbar_pairs=256,
    max_k=512,
    max_n=512,
    max_layers=64,
    activation_bytes=1 << 14,
    width_entries=4096,
    channel_entries=1024,
    pad_entries=512,
)

#: Pair machines of the same sizes.
SMALL_PAIRS, NINE_PAIRS = (replace(hardware, machine="pairs") for hardware in (SMALL, NINE))
SMALL_MACROS = replace(SMALL_PAIRS, macros=4)
#: Those on which outputs may stop early.
SMALL_STOP, SMALL_STOP_MACROS = (replace(SMALL_PAIRS, macros=count, early_stop=1) for count in (1, 2))
#: Machines with activation functions.
SMALL_TABLES, SMALL_TABLES_MACROS = (replace(x, activation_tables=40) for x in (SMALL, SMALL_MACROS))

#: An integer of low..high.
Pick = Callable[[int, int], int]
#: What a network of this file may consist of, besides the image.
KINDS = ("convolution", "residual", "shortcut", "linear", "max", "mean", "concat", "add", "border", "reshape")
#: And these, which the host computes.
HOST_KINDS = ("norm", "attention", "constant")
#: Kinds of networks in which functions stand everywhere: behind pooling, groups, residuals, in steps of their own.
WITH_FUNCTIONS = ("convolution", "convolution", "convolution", "residual", "shortcut", "add", "concat", "max")
_LARGEST = 160  # values of a tensor


class Unfit(ValueError):
    """These choices make no network."""


def _require(node: Node | None) -> None:
    if node is None:
        raise Unfit("a map would be too large")


@dataclass
class Maker:
    """Builds a network node by node; `pick` makes its choices."""

    pick: Pick
    hardware: HardwareConfig
    nodes: list[Node] = field(default_factory=list)
    #: Tensors that come from an image with a mean per channel: not everything can read them.
    with_mean: set[str] = field(default_factory=set)
    #: New nodes read none of the nodes before this one.
    first: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.pick(0, 2**32 - 1))

    @classmethod
    def seeded(cls, seed: int | Sequence[int], hardware: HardwareConfig) -> Maker:
        """One whose choices come from a seed."""
        rng = np.random.default_rng(seed)
        return cls(lambda low, high: int(rng.integers(low, high + 1)), hardware)

    # ---- choices --------------------------------------------------------------------------------
    def chance(self, one_in: int = 2) -> bool:
        """True once in `one_in`; shrinks to False."""
        return self.pick(0, one_in - 1) == one_in - 1

    def choose(self, options: Any) -> Any:
        return options[self.pick(0, len(options) - 1)]

    def tensor(self, accepts: Callable[[Node], bool] = lambda node: True) -> Node | None:
        """An earlier tensor, the newest by preference; None if none is accepted."""
        found = [node for node in reversed(self.nodes[self.first :]) if accepts(node)]
        return self.choose(found) if found else None

    def plain(self, node: Node) -> bool:
        return node.name not in self.with_mean

    def encoding(self, high: float) -> Encoding:
        """Any encoding of values up to about `high`."""
        bits = self.hardware.input_bits if self.chance() else self.pick(1, self.hardware.input_bits)
        low = -high * self.pick(1, 8) / 4 if self.chance(3) else 0.0
        ones = self.pick(0, 3) if self.hardware.pairs and not low else 0
        return Encoding(high=high * self.pick(1, 4) / 2, low=low, bits=bits, ones=ones)

    def lookup(self, reach: float) -> Lookup | None:
        """A function of values of about -reach..reach, rising or not, where the machine has tables; None for none."""
        if not self.hardware.activation_tables or self.chance():
            return None
        bits = self.hardware.input_bits if self.chance() else self.pick(1, self.hardware.input_bits)
        code = Encoding(low=-reach * self.pick(0, 4) / 4, high=reach * self.pick(1, 4) / 4, bits=bits)
        if self.chance():
            return Lookup(code=code, values=self.rng.uniform(-reach, reach, 1 << bits))
        return Lookup.of(code, lambda x: x / (1 + np.exp(-8 * x / reach)))  # falls, then rises

    def add(self, node: Node) -> Node | None:
        """Append a node with the shape that it makes; None if that is no legal map or a large one."""
        by_name = {x.name: x for x in self.nodes}
        try:
            shape = node.expected_shape([by_name[name].shape for name in node.inputs])
        except ValueError:
            return None
        if min(shape) < 1 or np.prod(shape) > _LARGEST:
            return None
        if isinstance(node, MaxPool | Border | Reshape):
            node = replace(node, encoding=by_name[node.inputs[0]].encoding)
            if node.inputs[0] in self.with_mean:
                self.with_mean.add(node.name)
        node = replace(node, shape=shape)
        self.nodes.append(node)
        return node

    def base(self, kind: str, *inputs: Node, encoding: Encoding | None = None) -> dict[str, Any]:
        return {
            "name": f"{kind}{len(self.nodes)}",
            "inputs": tuple(node.name for node in inputs),
            "shape": (1, 1, 1),
            "encoding": encoding or inputs[0].encoding,
        }

    # ---- nodes ----------------------------------------------------------------------------------
    def image(self) -> None:
        shape = (self.pick(1, 3), self.pick(3, 6), self.pick(3, 6))
        bits = self.hardware.input_bits
        zeros = ()
        if self.chance(3):
            zeros = tuple(self.pick(0, 2 * (1 << bits) - 2) / 2 for _ in range(shape[0]))
            self.with_mean.add("image")
        low = -self.pick(0, 3) / 4 if self.chance(4) and not zeros else 0.0
        self.nodes.append(
            Image(name="image", shape=shape, encoding=Encoding(high=1.0, low=low, bits=bits, zeros=zeros))
        )

    def crossbar(
        self, source: Node, outputs: int, *, groups: int = 1, residual: Node | None = None, **values: Any
    ) -> Node | None:
        """A convolution or linear layer; `values` go to its layers."""
        hardware, rng = self.hardware, self.rng
        channels, height, width = source.shape
        registers = self.registers()
        scale = self.choose([0.5, 1.3]) if self.chance(4) and not hardware.pairs else 1.0
        dynamic = None
        if self.chance(3):
            dynamic = DynamicPrecision(l_max=self.pick(0, 3), tau_sq=self.choose([0, 40, 400, 4096]))
        given = {
            "kind": "conv", "stride": 1, "pad": 0, "pool": 1, "channels": channels // groups, "height": height,
            "width": width, **values,
        }  # fmt: skip
        k, n = given["channels"] * given["kernel_height"] * given["kernel_width"], outputs // groups
        if k > 100:
            return None
        layers = []
        skip = self.chance()
        bits = source.encoding.bits
        stop_bits = None
        may_stop = hardware.early_stop and bits > 1 and residual is None and not given.get("last")
        if may_stop and search_of(registers, hardware).lossless and not self.chance(4):
            stop_bits = 2 * self.pick(1, (1 << (bits - 1)) - 1)
        for group in range(groups):
            weights = self.weights(k, n)
            layers.append(
                Layer(
                    name=f"group{group}",
                    outputs=n,
                    weights=weights,
                    bias=np.zeros(n, dtype=np.int64),
                    multipliers=np.zeros(n, dtype=np.int64),
                    shift=0,
                    block_widths=mapping.block_widths(weights, hardware),
                    registers=registers,
                    min_count=trq.min_count(hardware.adc_bits, scale),
                    counts_per_lsb=scale,
                    dynamic=dynamic,
                    skip_zero_slices=skip,
                    stop_bits=stop_bits,
                    **given,
                )
            )
        if min(layers[0].conv_height, layers[0].conv_width) < max(1, layers[0].pool):
            return None
        step = rng.uniform(0.01, 0.03, outputs)
        x = source.encoding
        reach = float(step.mean() * (x.high - x.low) * np.sqrt(k) * (1 << hardware.weight_bits) / 4)
        inputs = (source,) if residual is None else (source, residual)
        node = Crossbar(
            **self.base("crossbar", *inputs, encoding=self.encoding(reach)),
            layers=tuple(layers),
            step=step,
            bias=rng.normal(0, reach / 4, outputs),
            lookup=None if given.get("last") else self.lookup(reach),
        )
        return self.add(node)

    def registers(self) -> AdcRegisters:
        bits, pairs = self.hardware.converter_bits, self.hardware.pairs
        if pairs and self.chance():
            return AdcRegisters(mode=self.choose(["outward", "bounded"]), n_r2=bits)
        n_r2 = self.pick(1, bits) if self.chance() else bits
        m = self.pick(0, bits - n_r2)
        if self.chance():
            return AdcRegisters(mode="uniform", n_r2=n_r2, m=m)
        n_r1 = self.pick(0, n_r2 + m - 1)
        bias = 0 if pairs else self.pick(0, (1 << (n_r2 + m - n_r1)) - 2)
        return AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)

    def weights(self, k: int, n: int) -> np.ndarray:
        """(K, N) weights whose blocks have random widths, 0 among them; sometimes all at the largest magnitude."""
        hardware, rng = self.hardware, self.rng
        top = (1 << hardware.weight_bits) - 1
        if self.chance(8):
            return rng.choice([-top, top], size=(k, n))
        segments, columns = -(-k // hardware.ou_rows), -(-n // hardware.ou_cols)
        limit = (1 << rng.integers(0, hardware.weight_bits + 1, (segments, columns))) - 1
        limit = np.kron(limit, np.ones((hardware.ou_rows, hardware.ou_cols), dtype=np.int64))[:k, :n]
        return rng.integers(-limit, limit + 1)

    def kernel(self, source: Node) -> dict[str, int]:
        pad = self.pick(0, 1)
        return {
            "kernel_height": self.pick(1, min(3, source.shape[1] + 2 * pad)),
            "kernel_width": self.pick(1, min(3, source.shape[2] + 2 * pad)),
            "pad": pad,
        }

    def convolution(self) -> Node | None:
        source = self.tensor()
        assert source is not None
        channels = source.shape[0]
        groups = self.choose([g for g in (1, 2, 3) if channels % g == 0])
        if channels <= 6 and self.chance(4):
            groups = channels  # depthwise
        return self.crossbar(
            source,
            groups * self.pick(1, 5 if groups == 1 else 2),
            groups=groups,
            stride=self.pick(1, 2),
            pool=self.pick(1, 2),
            **self.kernel(source),
        )

    def residual(self) -> Node | None:
        """A convolution that keeps a map's size, with a residual of just that shape, perhaps its own input."""
        residual = self.tensor(self.plain)
        if residual is None:
            return None
        channels, height, width = residual.shape
        source = self.tensor(lambda node: node.shape[1:] == (height, width))
        assert source is not None
        groups = self.choose([g for g in (1, 2, 3) if channels % g == 0 and source.shape[0] % g == 0])
        kernel = self.choose([1, 3])
        return self.crossbar(
            source, channels, groups=groups, residual=residual, kernel_height=kernel, kernel_width=kernel,
            pad=kernel // 2,
        )  # fmt: skip

    def shortcut(self) -> Node | None:
        """An option-A shortcut: a strided convolution or an addition, and a subsampled map with more channels."""
        source = self.tensor(self.plain)
        if source is None:
            return None
        stride, before, after = self.pick(1, 2), self.pick(0, 2), self.pick(0, 2)
        border = source
        parts = [{"stride": (stride, stride)}, {"channels": (before, after)}]
        for values in parts if self.chance() else [parts[0] | parts[1]]:
            made = self.add(Border(**self.base("border", border), **values))
            if made is None:
                return None
            border = made
        if self.chance(4):
            other = self.tensor(lambda node: node.shape == border.shape and self.plain(node))
            assert other is not None
            pair = [border, other] if self.chance() else [other, border]
            return self.add(Add(**self.base("add", *pair, encoding=self.encoding(1.0))))
        groups = self.choose([g for g in (1, 2) if border.shape[0] % g == 0 and source.shape[0] % g == 0])
        return self.crossbar(
            source, border.shape[0], groups=groups, residual=border, kernel_height=1, kernel_width=1, stride=stride
        )

    def linear(self) -> Node | None:
        source = self.tensor()
        assert source is not None
        return self.crossbar(
            source, self.pick(1, 5), kind="linear", kernel_height=source.shape[1], kernel_width=source.shape[2]
        )

    def window(self, source: Node) -> Window:
        size = source.shape[1:]
        if self.chance(3):
            return Window(kernel=size, stride=size)
        kernel = tuple(self.pick(1, min(4, s)) for s in size)
        return Window(
            kernel=kernel,
            stride=tuple(self.pick(1, 3) for _ in size),
            pad=tuple(self.pick(0, k // 2) for k in kernel),
            ceil_mode=self.chance(),
        )

    def max(self) -> Node | None:
        source = self.tensor()
        assert source is not None
        return self.add(MaxPool(**self.base("max", source), window=self.window(source)))

    def mean(self) -> Node | None:
        source = self.tensor(self.plain)
        if source is None:
            return None
        encoding = self.encoding(source.encoding.high)
        return self.add(AveragePool(**self.base("mean", source, encoding=encoding), window=self.window(source)))

    def concat(self) -> Node | None:
        first = self.tensor(self.plain)
        if first is None:
            return None
        parts = [first]
        for _ in range(self.pick(0, 2)):
            part = self.tensor(lambda node: self.plain(node) and node.shape[1:] == first.shape[1:])
            assert part is not None
            parts.append(part)
        encoding = self.encoding(first.encoding.high) if self.chance(3) else first.encoding
        made = self.add(Concat(**self.base("concat", *parts, encoding=encoding)))
        if made is not None and self.chance():  # make the parts' producers share its encoding where they can
            for part in parts:
                index = next(i for i, node in enumerate(self.nodes) if node.name == part.name)
                if isinstance(part, Crossbar | Add | AveragePool | Concat | Host):
                    self.nodes[index] = replace(self.nodes[index], encoding=encoding)
        return made

    def addition(self) -> Node | None:
        first = self.tensor(self.plain)
        if first is None:
            return None
        parts = [first]
        if self.chance(3) is False:
            other = self.tensor(lambda node: self.plain(node) and node.shape == first.shape)
            assert other is not None
            parts.append(other)
        high = sum(p.encoding.high for p in parts)
        base = self.base("add", *parts, encoding=self.encoding(high))
        return self.add(Add(**base, lookup=self.lookup(high)))

    def border(self) -> Node | None:
        source = self.tensor()
        assert source is not None
        values: dict[str, Any] = {
            "stride": (self.pick(1, 2), self.pick(1, 2)),
            "border": tuple(self.pick(0, 2) for _ in range(4)) if self.chance() else (0, 0, 0, 0),
        }
        if self.plain(source) and self.chance():
            values["channels"] = (self.pick(0, 2), self.pick(0, 2))
        return self.add(Border(**self.base("border", source), **values))

    def reshape(self) -> Node | None:
        source = self.tensor(self.plain)
        if source is None:
            return None
        c, h, w = source.shape
        shape = self.choose([(c * h * w, 1, 1), (c, w, h), (h, c, w), (1, c * h, w)])
        node = Reshape(**{**self.base("reshape", source), "shape": shape})
        return self.add(node)

    def norm(self) -> Node | None:
        source = self.tensor(self.plain)
        if source is None:
            return None
        gain, bias = self.rng.normal(1, 0.3, (2, source.shape[0]))
        eps = self.choose([1e-5, 0.1])
        return self.add(
            LayerNorm(**self.base("norm", source, encoding=self.encoding(2.0)), gain=gain, bias=bias - 1, eps=eps)
        )

    def attention(self) -> Node | None:
        """Of channels that are there, or that a convolution makes."""
        source = self.tensor(self.plain)
        if source is None:
            return None
        heads = self.pick(1, 2)
        if source.shape[0] % (3 * heads):
            made = self.crossbar(source, 3 * heads * self.pick(1, 2), kernel_height=1, kernel_width=1)
            if made is None:
                return None
            source = made
        encoding = self.encoding(source.encoding.high)
        return self.add(Attention(**self.base("attention", source, encoding=encoding), heads=heads))

    def constant(self) -> Node | None:
        source = self.tensor(self.plain)
        if source is None:
            return None
        values, high = self.rng.normal(0, source.encoding.high / 2, source.shape), 1.5 * source.encoding.high
        return self.add(AddConstant(**self.base("constant", source, encoding=self.encoding(high)), values=values))

    # ---- the whole ------------------------------------------------------------------------------
    def dangling(self) -> list[Node]:
        used = {name for node in self.nodes for name in node.inputs}
        return [node for node in self.nodes if node.name not in used]

    def gather(self) -> None:
        """Use every tensor: those that nothing reads become one."""
        while len(ends := self.dangling()) > 1:
            one, other = ends[-2:]
            flat = []
            for node in (one, other):
                if node.name in self.with_mean:
                    made = self.crossbar(node, 1, kind="linear", kernel_height=node.shape[1],
                                         kernel_width=node.shape[2])  # fmt: skip
                    _require(made)
                elif node.shape[1:] != (1, 1):
                    made = self.add(
                        Reshape(**{**self.base("reshape", node), "shape": (int(np.prod(node.shape)), 1, 1)})
                    )
                else:
                    made = node
                assert made is not None
                flat.append(made)
            made = self.add(Concat(**self.base("concat", *flat, encoding=flat[0].encoding)))
            _require(made)

    def finish(self) -> None:
        """An output of any kind; at least one crossbar layer."""
        self.gather()
        end = self.nodes[-1]
        crossbars = any(isinstance(node, Crossbar) for node in self.nodes)
        way = self.pick(0, 3)
        if way == 0 or not crossbars or end.name in self.with_mean:
            made = self.crossbar(
                end, self.pick(1, 5), kind="linear", kernel_height=end.shape[1], kernel_width=end.shape[2], last=True
            )
            _require(made)
        elif way == 1:
            self.add(AveragePool(**self.base("mean", end), window=self.window(end), sums=True))
        elif way == 2:
            self.first = len(self.nodes) - 1
            getattr(self, self.choose(("addition", "reshape", "max", "mean", "border", "convolution")))()

    def make(self, kinds: tuple[str, ...], count: int) -> Graph:
        self.image()
        for _ in range(count):
            kind = self.choose(kinds)
            getattr(self, {"add": "addition"}.get(kind, kind))()
        self.finish()
        try:
            return build("random", self.hardware, self.nodes)
        except ValueError as error:  # integers that follow from random numbers need not fit their registers
            if "does not fit" in str(error) or "partial sums need" in str(error):
                raise Unfit(str(error)) from None
            raise


@st.composite
def random_networks(
    draw: st.DrawFn, hardware: HardwareConfig = SMALL, kinds: tuple[str, ...] = KINDS, most: int = 6
) -> Graph:
    """Any small network of these kinds of nodes, drawn by hypothesis."""
    try:
        return Maker(lambda low, high: draw(st.integers(low, high)), hardware).make(kinds, draw(st.integers(1, most)))
    except Unfit:
        reject()


def random_network(seed: int, hardware: HardwareConfig = SMALL, kinds: tuple[str, ...] = KINDS, most: int = 6) -> Graph:
    """The first network that a seed gives."""
    maker = Maker.seeded(seed, hardware)
    while True:
        try:
            return replace(maker, nodes=[], with_mean=set()).make(kinds, maker.pick(1, most))
        except Unfit:
            continue


def random_images(seed: int, network: Graph, count: int) -> np.ndarray:
    """uint8 (count, C, H, W): random, and one each of all zeros and all maxima from the second on."""
    top = network.image.encoding.top
    images = np.random.default_rng([seed, 1]).integers(0, top + 1, (count, *network.image.shape))
    for index, value in ((1, 0), (2, top)):
        if index < count:
            images[index] = value
    return images.astype(np.uint8)


def encoder(hardware: HardwareConfig = SMALL, seed: int = 0) -> Graph:
    """An encoder of a transformer on 3 tokens of 6 channels. Its residuals live on while the host computes, and the
    host writes one part of a concatenation, at a byte that is no multiple of 4."""
    maker, bits = Maker.seeded(seed, hardware), hardware.input_bits
    rng, pixel = maker.rng, {"kernel_height": 1, "kernel_width": 1}
    image = Image(name="image", shape=(2, 6, 2), encoding=Encoding(high=1.0, bits=bits))
    maker.nodes.append(image)

    def made(node: Node | None, reach: float = 3.0) -> Node:
        _require(node)
        maker.nodes[-1] = replace(maker.nodes[-1], encoding=Encoding(low=-reach, high=reach, bits=bits))
        return maker.nodes[-1]

    def norm(x: Node) -> Node:
        gain, bias = rng.normal(1, 0.3, (2, x.shape[0]))
        return made(maker.add(LayerNorm(**maker.base("norm", x), gain=gain, bias=bias - 1, eps=1e-5)))

    x = made(maker.crossbar(image, 6, stride=2, kernel_height=2, kernel_width=2))
    x = made(maker.add(AddConstant(**maker.base("constant", x), values=rng.normal(0, 1, x.shape))))
    qkv = made(maker.crossbar(norm(x), 18, **pixel))
    attended = made(maker.add(Attention(**maker.base("attention", qkv), heads=2)))
    x = made(maker.crossbar(attended, 6, residual=x, **pixel))
    hidden = made(maker.crossbar(norm(x), 5, **pixel))
    x = made(maker.crossbar(hidden, 6, residual=x, **pixel))
    x = made(maker.add(Concat(**maker.base("concat", x, norm(x)))))
    maker.crossbar(x, 4, kind="linear", kernel_height=3, kernel_width=1, last=True)
    return build("encoder", hardware, maker.nodes)
