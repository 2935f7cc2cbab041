"""Folding: batch norms, ReLUs, additions and poolings go into the layers that can do them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from golden_model.few_ones import nearest_level
from quant.capture.errors import UnsupportedOperator
from quant.capture.op import TRANSPARENT, Function, Op, after, from_image
from quant.capture.trace import Seen, as_map, differs


class Simplifier:
    """Folds ops into each other until only those are left that become nodes."""

    def __init__(self, ops: dict[str, Op], output: str) -> None:
        self.ops, self.output = ops, output

    def simplify(self) -> dict[str, Op]:
        """The remaining ops in order of computation, the output last."""
        while self.ops[self.output].kind == "reshape":  # logits are a vector anyway
            self.output = self.ops[self.output].inputs[0]
        for step in (
            self._drop_unused, self._fold_picks, self._join_functions, self._fold_norms, self._fold_relus,
            self._fold_functions, self._fold_additions, self._fold_pooling,
        ):  # fmt: skip
            step()
        self._sort()
        for op in self.ops.values():
            if op.picked is not None and not op.relu and len(op.inputs) == 1:  # the same integers, not rounded again
                source = self.ops[op.inputs[0]]
                op.low, op.high, op.bits = source.low, source.high, source.bits
            if self._unsigned(op.name):
                op.low = 0.0
        self._share_scales()
        return self.ops

    def _users(self, name: str) -> list[Op]:
        """Ops that take `name`, once per use; the network's output counts as a use by itself."""
        users = [op for op in self.ops.values() for i in op.inputs if i == name]
        return [*users, self.ops[name]] if name == self.output else users

    def _replace(self, old: str, new: str) -> None:
        """Everybody who took `old` takes `new`, which gives the same values from now on."""
        self.ops[new].value_of = self.ops[old].value_of
        for op in self.ops.values():
            op.inputs = [new if i == old else i for i in op.inputs]
        if self.output == old:
            self.output = new
        del self.ops[old]

    def _drop_unused(self) -> None:
        for name in reversed(list(self.ops)):
            if not self._users(name) and self.ops[name].kind != "image":
                del self.ops[name]

    def _fold_picks(self) -> None:
        """Channels that are picked go into the convolutions that read them: rows of zeros for those that are not."""
        for op in [o for o in self.ops.values() if o.picked is not None]:
            before = self.ops[op.inputs[0]]
            if from_image(self.ops, before.name):
                raise UnsupportedOperator(f"layer {op.name!r}: channels of the image itself cannot be picked")
            for user in self._users(op.name):
                if user.kind == "matrix" and not user.linear and user.groups == 1 and user.name != op.name:
                    assert op.picked is not None
                    user.weight = _spread(user.weight, op.picked, before.shape[0])
                    user.integers = (
                        None if user.integers is None else _spread(user.integers, op.picked, before.shape[0])
                    )
                    user.inputs = [before.name]
        self._drop_unused()

    def _join_functions(self) -> None:
        """Functions of one number after each other become one; of constants only those that no layer can take up."""
        for op in list(self.ops.values()):
            while op.inputs and (joined := self._joined(op, self.ops[op.inputs[0]])) is not None:
                before = self.ops.pop(op.inputs[0])
                op.kind, op.function, op.inputs = "function", joined, before.inputs

    def _joined(self, op: Op, before: Op) -> Function | None:
        """What two ops, one behind the other, do to every value; None if they stay two."""
        outer, inner = op.elementwise, before.elementwise
        if outer is None or inner is None or len(self._users(before.name)) > 1:
            return None
        layer = self.ops[before.inputs[0]]
        taken_up = before.kind == "norm" and layer.kind == "matrix" and len(self._users(layer.name)) == 1
        return after(outer, inner) if before.kind == "function" or (op.kind == "function" and not taken_up) else None

    def _fold_norms(self) -> None:
        for op in [o for o in self.ops.values() if o.kind == "norm"]:
            before = self.ops[op.inputs[0]]
            if before.kind != "matrix" or len(self._users(before.name)) != 1:
                # A depthwise convolution of one pixel: weights of 1 or -1, and a step per channel.
                if from_image(self.ops, before.name):
                    raise UnsupportedOperator(
                        f"layer {op.name!r}: BatchNorm and arithmetic with a constant per channel must follow a layer, "
                        f"not the image"
                    )
                channels = op.shape[0]
                op.kind, op.groups, op.scale = "matrix", channels, op.weight
                op.integers = torch.ones(channels, 1, 1, 1)
                op.weight = op.weight[:, None, None, None]
                continue
            before.picked = None  # it does more now
            before.weight = before.weight * op.weight[:, None, None, None]
            before.bias = before.bias * op.weight + op.bias
            before.scale = before.scale * op.weight if before.integers is not None else before.scale
            before.low, before.high = op.low, op.high
            self._replace(op.name, before.name)

    def _fold_relus(self) -> None:
        for op in [o for o in self.ops.values() if o.kind == "relu"]:
            # A maximum commutes with ReLU, so look through what passes values on.
            between: list[Op] = []
            base = self.ops[op.inputs[0]]
            while base.kind in TRANSPARENT and len(self._users(base.name)) == 1:
                between.append(base)
                base = self.ops[base.inputs[0]]
            alone = len(self._users(base.name)) == 1
            same = (base.floor, base.cap, base.bits, base.ones) == (op.floor, op.cap, op.bits, op.ones)
            # A second clamp of which nothing is lost takes the first one's place.
            covers = base.cap is None and base.floor <= op.floor
            if (self._unsigned(op.inputs[0]) and op.cap is None) or (base.relu and same):
                self._replace(op.name, op.inputs[0])
            elif base.kind in ("matrix", "add", "mean") and alone and (not base.relu or covers):
                base.clamp(op)
                for changed in (base, *between):
                    changed.value_of = None  # clamped earlier than in the network
                for changed in between:
                    changed.low, changed.high = base.low, base.high
                self._replace(op.name, op.inputs[0])
            else:
                op.kind, op.relu = "add", True  # an addition of one input that clamps

    def _fold_functions(self) -> None:
        """Behind a layer or an addition, in its post-processing; elsewhere an addition of one input."""
        for op in [o for o in self.ops.values() if o.kind == "function"]:
            base = self.ops[op.inputs[0]]
            op.code = base.low, base.high
            saturates = op.bits is not None and base.bits is None and base.cap is None and base.floor <= op.low
            alone = len(self._users(base.name)) == 1 and base.function is None
            if base.kind in ("matrix", "add") and alone and (not base.relu or saturates):
                base.function, base.code, base.low, base.high = op.function, op.code, op.low, op.high
                base.bits = op.bits
                base.picked = None  # it does more now
                self._replace(op.name, base.name)
            else:
                op.kind = "add"

    def _fold_additions(self) -> None:
        for op in [o for o in self.ops.values() if o.kind == "add" and len(o.inputs) == 2]:
            candidates = [
                b
                for b in (self.ops[name] for name in op.inputs)
                if (b.kind, b.relu, b.function, len(b.inputs)) == ("matrix", False, None, 1)
                and len(self._users(b.name)) == 1
            ]
            if not candidates:
                continue
            # The layer that keeps its full sums is the larger one; the other is rounded to an activation first.
            chosen = max(candidates, key=lambda b: b.weight[0].numel())
            other = op.inputs[1] if op.inputs[0] == chosen.name else op.inputs[0]
            chosen.inputs = [chosen.inputs[0], other]
            chosen.relu, chosen.floor, chosen.cap, chosen.low, chosen.high = op.relu, op.floor, op.cap, op.low, op.high
            chosen.bits, chosen.ones, chosen.function, chosen.code = op.bits, op.ones, op.function, op.code
            self._replace(op.name, chosen.name)

    def _fold_pooling(self) -> None:
        """Maximum pooling that the hardware does while it walks the windows (system.md §5a)."""
        for op in [o for o in self.ops.values() if o.kind == "max"]:
            before, window = self.ops[op.inputs[0]], op.window
            assert window is not None
            size = window.kernel[0]
            exact = not window.ceil_mode or all(s % size == 0 for s in before.shape[1:])
            if (
                before.kind == "matrix"
                and not before.linear
                and (len(before.inputs), before.pool, len(self._users(before.name))) == (1, 1, 1)
                and window.kernel == window.stride == (size, size)
                and window.pad == (0, 0)
                and exact
                and size <= 255
            ):
                before.pool, before.shape = size, op.shape
                self._replace(op.name, before.name)

    def _sort(self) -> None:
        """Order of computation again, after residuals have been folded into earlier layers."""
        done: dict[str, Op] = {}
        waiting = [self.output]
        while waiting:
            name = waiting[-1]
            missing = [i for i in self.ops[name].inputs if i not in done]
            if name in done or not missing:
                done.setdefault(name, self.ops[name])
                waiting.pop()
            else:
                waiting += reversed(missing)
        image = next(name for name, op in self.ops.items() if op.kind == "image")
        if image not in done:
            raise UnsupportedOperator("the network's output does not depend on its input")
        self.ops = {image: done.pop(image), **done}

    def _unsigned(self, name: str) -> bool:
        """Whether a tensor cannot be negative, whatever the image."""
        op = self.ops[name]
        picks = op.picked is not None and len(op.inputs) == 1
        if (op.kind in (*TRANSPARENT, "cat", "mean") or picks) and not op.relu:
            return all(map(self._unsigned, op.inputs))
        return op.relu and op.floor >= 0

    def _share_scales(self) -> None:
        """Give the inputs of a concatenation its range where nobody else uses them; nothing is requantised then."""
        for op in reversed(list(self.ops.values())):
            if op.kind != "cat":
                continue
            op.low = min(op.low, *(self.ops[i].low for i in op.inputs))
            op.high = max(op.high, *(self.ops[i].high for i in op.inputs))
            for name in op.inputs:
                chain = [self.ops[name]]
                while chain[-1].kind in TRANSPARENT:
                    chain.append(self.ops[chain[-1].inputs[0]])
                base = chain[-1]
                alone = all(len(self._users(o.name)) == 1 for o in chain)
                # A clamp is that at the ends of the range.
                fits = (not base.relu or op.low >= base.floor) and (base.cap is None or op.high <= base.cap)
                fits &= base.bits is None or (op.low, op.high) == (base.low, base.high)
                if alone and fits and base.kind in ("matrix", "add", "mean", "cat"):
                    for member in chain:
                        member.low, member.high = op.low, op.high


def _spread(weight: Tensor, picked: Tensor, channels: int) -> Tensor:
    """A weight (N, P, kh, kw) on channels that were picked as one on all of them."""
    spread = weight.new_zeros(len(weight), channels, *weight.shape[2:])
    return spread.index_add_(1, picked, weight)


def compare_with_network(ops: dict[str, Op], module: fx.GraphModule, seen: dict[fx.Node, Seen]) -> None:
    """Compute every op in floating point from what the network gave, and compare with what it gave next.

    ops : simplified. seen : of `trace.observe`, with the values of the first images.

    UnsupportedOperator names the first layer that differs.
    """
    values: dict[str, Tensor] = {}
    for op in ops.values():
        given = None if op.value_of is None else seen[op.value_of].values
        given = None if given is None else as_map(given)
        if op.kind == "image":
            assert given is not None
            made = given
        else:
            made = op.compute([values[i] for i in op.inputs])
            if given is not None:
                differs(op.name, given, made, slack=_rounding(op), why=_hook(op.name, module))
        values[op.name] = made if given is None else given.reshape(len(given), *op.shape)


def _rounding(op: Op) -> float:
    """The most that rounding changes a trained activation, which `Op.compute` leaves out."""
    if op.bits is None or not (op.relu or op.function):
        return 0.0
    integers = np.arange(1 << op.bits)
    off = int(np.abs(nearest_level(integers, op.bits, op.ones) - integers).max())
    low, high = (op.floor, op.cap) if op.cap is not None else (op.low, op.high)
    return (off + 0.5) * (high - low) / integers[-1]


def _hook(name: str, module: fx.GraphModule) -> str:
    """What a message says of a layer with hooks."""
    layer = dict(module.named_modules()).get(name)
    hooked = layer is not None and (layer._forward_hooks or layer._forward_pre_hooks)
    return "; it has a hook, which is not captured" if hooked else ""
