"""A network of a torch.export program, FILE.pt2, as a torch.fx module of ordinary PyTorch layers.

A program is a graph of ATen operators, whose names and arguments are those of PyTorch's functions: they become these
functions again, and convolutions, linear layers and batch norms become modules, called as in the network that was
exported. So there is one table of operators (quant/capture/operators/), and training finds its layers. What comes out
is compared with the program on one picture.

Shapes come from the program, any batch is taken. ValueError says in one sentence what a file has that is not supported.
A file whose tensors are pickles, or that brings libraries, is not read, because reading it would run its code; PyTorch
asks to read programs of trusted origin all the same.
"""

from __future__ import annotations

import operator
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F

from quant.networks.refused import because

Shape = tuple[int, int, int]

SUFFIX = ".pt2"
#: Of a module: it was read from a program. Of its nodes: the name of its layer.
_META = "layer"
#: What a program consists of; anything else may run code as it is read.
_PLAIN = re.compile(r"(models|\.data)/[^/]*|data/(weights/[^/]*|constants/(tensor_|[^/]*\.json)[^/]*"
                    r"|sample_inputs/[^/]*)|archive_format|archive_version|byteorder|version")  # fmt: skip
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_TOLERANCE = 1e-4
#: Operators that give what they take.
_SAME = ("clone", "contiguous", "detach", "alias", "lift_fresh_copy")
#: Operators that PyTorch's functions are made of, by the name of the function.
_PLAIN_NAMES = {
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "feature_dropout": "dropout",
}


def is_file(model: str) -> bool:
    """Whether MODEL of a command names a torch.export program."""
    return model.endswith(SUFFIX)


def is_program(network: nn.Module) -> bool:
    """Whether a network was read from a program, so that its graph has the names of its layers."""
    return bool(getattr(network, "meta", {}).get(_META))


def name_of(node: fx.Node) -> str:
    """Name of the layer that a node of a program belongs to alone, "" for none."""
    return node.meta.get(_META, "")


def load(path: Path | str) -> Any:
    """The file's torch.export.ExportedProgram, checked."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--model: {path} is not a file")
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"  # no pickle of anything but tensors, whatever the file asks for
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
        if strange := [name for name in names if not _PLAIN.fullmatch(name)]:
            raise ValueError(f"it holds {strange[0]!r}, which may run code; only graphs and tensors are read")
        program = torch.export.load(path)
    except Exception as error:  # a damaged file raises almost anything
        reason = " ".join(str(error).split()).partition(". ")[0][:300] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a torch.export program: {reason}") from error
    finally:
        os.environ.pop(_WEIGHTS_ONLY)
        os.environ.update({} if before is None else {_WEIGHTS_ONLY: before})
    signature = program.graph_signature
    for what, found in (("input", signature.user_inputs), ("output", signature.user_outputs)):
        if len(found) != 1:
            raise ValueError(f"{path}: the network must have one {what}, it has {len(found)}")
    if signature.buffers_to_mutate:
        changed = next(iter(signature.buffers_to_mutate.values()))
        raise ValueError(f"{path}: the network changes its {changed!r} while it runs; export it after .eval()")
    picture = _picture(program)
    sizes = tuple(picture.shape)
    if picture.dtype != torch.float32 or len(sizes) != 4 or not all(isinstance(size, int) for size in sizes[1:]):
        raise ValueError(
            f"{path}: its input must be float pictures (N, C, H, W) with C, H and W fixed, it has shape"
            f" ({', '.join(map(str, sizes))}) and type {str(picture.dtype).removeprefix('torch.')}"
        )
    return program


def _picture(program: Any) -> Tensor:
    """What stands for the input in the program: shape and type."""
    name = program.graph_signature.user_inputs[0]
    return next(node.meta["val"] for node in program.graph.nodes if node.name == name)


def input_shape(path: Path | str) -> Shape:
    """(C, H, W) of the pictures that a program takes."""
    return cast(Shape, tuple(_picture(load(path)).shape[1:]))


@torch.no_grad()
def read(path: Path | str) -> fx.GraphModule:
    """The network of a program, in evaluation mode; its layers are called as they were."""
    program = load(path)
    given = program.module(check_guards=False)
    network = Reader(given).read()
    shape = _picture(program).shape
    batch = shape[0] if isinstance(shape[0], int) else 2
    picture = torch.rand(batch, *shape[1:], generator=torch.Generator().manual_seed(0))
    wanted, made = given(picture.clone()), network(picture.clone())
    if isinstance(wanted, tuple | list):
        (wanted,) = wanted
    if made.shape != wanted.shape or not torch.allclose(made, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ValueError(f"{path}: its layers do not compute what the program does")
    return network


class Reader:
    """Turns the nodes of a program into layers and functions of PyTorch, one after the other.

    Methods take the arguments of the ATen operator, tensors as `fx.Node`.
    """

    def __init__(self, program: fx.GraphModule) -> None:
        self.program, self.root, self.graph = program, nn.Module(), fx.Graph()
        self.nodes: dict[fx.Node, fx.Node] = {}
        self.modules: dict[str, nn.Module] = {}
        self.node: fx.Node = next(iter(program.graph.nodes))

    def read(self) -> fx.GraphModule:
        for node in self.program.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                self.nodes[node] = self.graph.placeholder("image")
            elif node.op == "get_attr":
                self.nodes[node] = self._constant(node)
            elif node.op == "output":
                value = node.args[0]
                self.graph.output(self.nodes[value if isinstance(value, fx.Node) else value[0]])
            elif node.op == "call_function":
                self._translate()
        for node in self.graph.find_nodes(op="get_attr"):
            if not node.users:  # it went into a module
                self.graph.erase_node(node)
        network = fx.GraphModule(self.root, self.graph, "ExportedNetwork").eval()
        network.meta[_META] = "program"
        return network

    # ---- plumbing ---------------------------------------------------------------------------------
    def _constant(self, node: fx.Node) -> fx.Node:
        """A parameter, buffer or constant of the program under a name of its own."""
        name = re.sub(r"\W", "_", str(node.target)) + "_of_program"
        self.root.register_buffer(name, _tensor(self.program, node))
        return self.graph.get_attr(name)

    def _translate(self) -> None:
        node, target = self.node, cast(Any, self.node.target)
        arguments, options = cast(Any, map_arg)((node.args, dict(node.kwargs)), lambda one: self.nodes[one])
        name = str(target.__name__).partition(".")[0]
        if target is operator.getitem and isinstance(arguments[0], tuple):
            if arguments[1] == 0:
                self.nodes[node] = arguments[0][0]
            elif node.users:
                raise ValueError(f"the program takes a second result of {node.args[0]}, which is not supported")
            return
        if not isinstance(target, torch._ops.OpOverload):
            made = self._call(target, arguments, options)
        elif name in _SAME:
            made = arguments[0]
        elif name.startswith(("_assert", "sym_")):
            return  # shapes come from the program
        else:
            name = _PLAIN_NAMES.get(name, name)
            method = METHODS.get(name)
            made = self._function(name, arguments, options) if method is None else method(self, *arguments, **options)
        self.nodes[node] = made

    @property
    def _owner(self) -> tuple[str, bool]:
        """(path of the module that the present node was in, whether it is one of PyTorch's layers)."""
        stack = list((self.node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"
        return path, kind.startswith("torch.nn.") and ".container." not in kind

    def _call(self, function: Callable[..., Any] | str, arguments: Any, options: Any = None) -> fx.Node:
        """A function, or a method of a tensor, on nodes and numbers."""
        kind = "call_method" if isinstance(function, str) else "call_function"
        made = self.graph.create_node(kind, function, tuple(arguments), options or {}, self.node.name)
        path, layer = self._owner
        if layer:
            made.meta[_META] = path
        elif path:
            made.meta["nn_module_stack"] = {path: (path, "")}
        return made

    def _layer(self, module: nn.Module, x: fx.Node, **values: fx.Node | None) -> fx.Node:
        """A module on x; values : its parameters and buffers."""
        for name, node in values.items():
            if node is not None:
                getattr(module, name).data = _tensor(self.root, node)
        path, layer = self._owner
        base = path if layer else f"{path}.{self.node.name}".lstrip(".")
        path, count = base, 1
        while path in self.modules:  # a layer that is called again
            count += 1
            path = f"{base}_{count}"
        self.modules[path] = module.eval()
        parent, _, last = path.rpartition(".")
        owner = self.root
        for part in filter(None, parent.split(".")):
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.add_module(last, module)
        return self.graph.call_module(path, (x,))

    def _function(self, name: str, arguments: Any, options: Any) -> fx.Node:
        """PyTorch's function of the same name and arguments; `relu_` is `relu` with inplace=True."""
        plain = name.removesuffix("_")
        if because(plain):  # refused, whatever its arguments
            made = self._call(cast(Any, self.node.target), arguments, options)
            made.meta["operator"] = plain
            return made
        if plain != name and "inplace" in _words(getattr(F, plain, None)):
            return self._call(getattr(F, plain), arguments, {**options, "inplace": True})
        for place in (F, torch):
            if hasattr(place, name):
                return self._call(getattr(place, name), arguments, options)
        return self._call(name if hasattr(Tensor, name) else cast(Any, self.node.target), arguments, options)

    # ---- operators --------------------------------------------------------------------------------
    def conv2d(
        self, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None, stride: Any = (1, 1), padding: Any = (0, 0),
        dilation: Any = (1, 1), groups: int = 1,
    ) -> fx.Node:  # fmt: skip
        if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):  # computed
            return self._call(F.conv2d, (x, weight, bias, stride, padding, dilation, groups))
        outputs, inputs, *kernel = _tensor(self.root, weight).shape
        pair = cast(Any, tuple(kernel))
        padding = padding if isinstance(padding, str) else tuple(padding)
        module = nn.Conv2d(
            inputs * groups, outputs, pair, _both(stride), padding, _both(dilation), groups, bias is not None
        )
        return self._layer(module, x, weight=weight, bias=bias)

    def convolution(
        self, x: fx.Node, weight: fx.Node, bias: fx.Node | None, stride: Any, padding: Any, dilation: Any,
        transposed: bool, output_padding: Any, groups: int,
    ) -> fx.Node:  # fmt: skip
        if transposed or len(stride) != 2:
            return self._call(F.conv_transpose2d if transposed else torch.convolution, (x, weight, bias, stride))
        return self.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def linear(self, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> fx.Node:
        if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
            return self._call(F.linear, (x, weight, bias))
        outputs, inputs = _tensor(self.root, weight).shape
        return self._layer(nn.Linear(inputs, outputs, bias is not None), x, weight=weight, bias=bias)

    def addmm(self, bias: fx.Node, x: fx.Node, weight: fx.Node) -> fx.Node:
        """x @ weight + bias, where weight is a transposed parameter."""
        if weight.op != "get_attr" and weight.target in (torch.permute, torch.t, torch.transpose):
            return self.linear(x, weight.all_input_nodes[0], bias)
        return self._call(torch.addmm, (bias, x, weight))

    def batch_norm(
        self, x: fx.Node, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float,
        cudnn: bool = False,
    ) -> fx.Node:  # fmt: skip
        values = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
        if training or not all(isinstance(one, fx.Node) and one.op == "get_attr" for one in values.values()):
            return self._call(F.batch_norm, (x, mean, var, weight, bias, training, momentum, eps))
        kind = nn.BatchNorm2d if len(self.node.all_input_nodes[0].meta["val"].shape) == 4 else nn.BatchNorm1d
        return self._layer(kind(len(_tensor(self.root, mean)), eps, momentum), x, **values)

    def native_batch_norm(
        self, x: fx.Node, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
    ) -> tuple[fx.Node]:
        return (self.batch_norm(x, weight, bias, mean, var, False, momentum, eps),)

    def layer_norm(
        self, x: fx.Node, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = False
    ) -> fx.Node:
        return self._call(F.layer_norm, (x, tuple(shape), weight, bias, eps))

    def reshape(self, x: fx.Node, *sizes: Any) -> fx.Node:
        """flatten, view, reshape, squeeze, for any batch."""
        made = self.node.meta["val"].shape
        if self.node.all_input_nodes[0].op == "get_attr":
            return self._call(torch.reshape, (x, tuple(made)))
        return self._call(torch.reshape, (x, (-1, *made[1:])))

    def slice(self, x: fx.Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> fx.Node:
        source = self.node.all_input_nodes[0].meta["val"].shape
        axis = dim % len(source)
        end = None if end is None or end >= (1 << 62) or end == source[axis] else end
        start = None if start == 0 else start
        if (start, end, step) == (None, None, 1):
            return x
        index = [slice(None)] * len(source)
        index[axis] = slice(start, end, None if step == 1 else step)
        if x.target is operator.getitem and isinstance(x.args[1], tuple) and x.args[1][axis] == slice(None):
            index = [new if new != slice(None) else old for new, old in zip(index, x.args[1], strict=True)]
            x = cast(fx.Node, x.args[0])
        return self._call(operator.getitem, (x, tuple(index)))

    def pooled(self, *arguments: Any) -> tuple[fx.Node]:
        """Maximum pooling that gives indices, too, which nobody may take."""
        return (self._call(F.max_pool2d if "indices" in str(self.node.target) else F.adaptive_max_pool2d, arguments),)

    def pad(self, x: fx.Node, pad: Any, mode: Any = "constant", value: Any = None) -> fx.Node:
        if not isinstance(mode, str):  # constant_pad_nd
            mode, value = "constant", mode
        return self._call(F.pad, (x, list(pad), mode, value or None))

    def softmax(self, x: fx.Node, dim: int, *others: Any) -> fx.Node:
        return self._call(torch.log_softmax if "log" in self.node.name else torch.softmax, (x, dim))


#: Operators whose arguments are not those of PyTorch's function of that name.
METHODS: dict[str, Callable[..., Any]] = {
    "conv2d": Reader.conv2d,
    "convolution": Reader.convolution,
    "linear": Reader.linear,
    "addmm": Reader.addmm,
    "batch_norm": Reader.batch_norm,
    "_native_batch_norm_legit_no_training": Reader.native_batch_norm,
    "layer_norm": Reader.layer_norm,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "squeeze"), Reader.reshape),
    "slice": Reader.slice,
    "max_pool2d_with_indices": Reader.pooled,
    "adaptive_max_pool2d": Reader.pooled,
    "pad": Reader.pad,
    "constant_pad_nd": Reader.pad,
    "softmax": Reader.softmax,
    "log_softmax": Reader.softmax,
    "split_with_sizes": lambda self, x, sizes, dim=0: self._call(torch.split, (x, list(sizes), dim)),
}


def _tensor(owner: nn.Module, node: fx.Node) -> Tensor:
    """The parameter, buffer or constant that a node of a graph gives."""
    value: Any = owner
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()


def _both(value: Any) -> Any:
    """Both directions of a stride."""
    return tuple(value) * 2 if len(value) == 1 else tuple(value)


def _words(function: Any) -> tuple[str, ...]:
    """Names of a function's arguments."""
    code = getattr(function, "__wrapped__", function)
    return code.__code__.co_varnames if hasattr(code, "__code__") else ()
