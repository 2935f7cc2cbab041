"""Training goes on from an integer network, of which nothing but its graph file was kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golden_model.graph.network import Graph
from golden_model.graph.nodes import Crossbar
from quant.networks.layers import FloatWeight, QuantMatrix
from quant.training.prepare import QuantisedNetwork


@torch.no_grad()
def take_over(network: QuantisedNetwork, graph: Graph, pixels: Tensor) -> bool:
    """Give a network that was just prepared the integers, factors, biases and clips of `graph`, so that it computes the
    same up to rounding; returns whether its activations have the widths and ones of the graph's, too.

    The step of a layer becomes the one that makes its weights as large as they are. Batch norms get mean and variance
    of `pixels`, 0..255 (B, C, H, W) float, so that training finds them as it would have left them; these have no
    influence on what is computed now.

    Raises ValueError naming the first layer that differs.
    """
    places = _places(network, pixels)
    layers = {layer.geometry.name: layer for layer in network}
    given = {node.name: node for node in graph.crossbars}
    if list(layers) != list(given):
        raise ValueError(f"the layers are {', '.join(layers)}, those of {graph.name} {', '.join(given)}")
    norms = _norms(network)
    for name, layer in layers.items():
        _take_layer(layer, given[name], norms.get(name), network.weight_bits)
    encodings = [graph.node(place).encoding for place in places]
    activations = network.activations()
    for activation, encoding in zip(activations, encodings, strict=True):
        activation.clip.fill_(encoding.high)
    _estimate(network, list(norms.values()), pixels)
    return all((a.bits, a.ones) == (e.bits, e.ones) for a, e in zip(activations, encodings, strict=True))


def _places(network: QuantisedNetwork, pixels: Tensor) -> list[str]:
    """The node of the integer network that gives each of the activations: the one with its clip."""
    activations = network.activations()
    clips = [activation.clip.clone() for activation in activations]
    for index, activation in enumerate(activations):
        activation.clip.fill_(1.0 + index)
    nodes = network.to_graph(pixels[:2].cpu().to(torch.uint8).numpy(), "places").nodes
    for activation, clip in zip(activations, clips, strict=True):
        activation.clip.copy_(clip)
    return [
        next(node.name for node in nodes[1:] if node.encoding.high == 1.0 + index) for index in range(len(activations))
    ]


def _norms(network: QuantisedNetwork) -> dict[str, nn.BatchNorm2d]:
    """The batch norm behind each layer that has one."""
    modules = dict(network.body.named_modules())
    found = {}
    for node in network.body.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, QuantMatrix):
            continue
        for user in node.users:
            norm = modules.get(str(user.target)) if user.op == "call_module" else None
            if isinstance(norm, nn.BatchNorm2d):
                found[layer.geometry.name] = norm
    return found


def _take_layer(layer: QuantMatrix, node: Crossbar, norm: nn.BatchNorm2d | None, weight_bits: int) -> None:
    """Integers and biases; a batch norm computes factor * x + bias."""
    source, kept = layer.source, node.layers[0]
    assert isinstance(source, FloatWeight)
    integers = torch.from_numpy(kept.weights.T.copy()).to(source.weight)
    largest, top = int(integers.abs().max()), (1 << weight_bits) - 1
    if integers.shape != source.weight.shape or largest > top:
        raise ValueError(
            f"layer {node.name}: its weights must be {tuple(source.weight.shape)} integers up to {top}, got"
            f" {tuple(integers.shape)} up to {largest}"
        )
    steps, bias = (torch.from_numpy(x).to(source.weight) for x in (node.step, node.bias))
    if norm is None:
        step = steps.max()
        if not torch.allclose(steps, step):
            raise ValueError(f"layer {node.name}: its outputs have factors of their own and no batch norm")
        layer.bias.copy_(bias)
    else:
        norms = float(source.weight.norm()), float(integers.norm())
        step = torch.tensor(norms[0] / norms[1] if all(norms) else float(source.step())).to(steps)
        layer.bias.zero_()
        _running(norm, torch.zeros_like(bias), torch.full_like(bias, 1 - norm.eps))
        norm.weight.copy_(steps / step)
        norm.bias.copy_(bias)
    source.weight.copy_(integers * step)
    source.log_step.copy_(step.log())


def _running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Set what a batch norm takes for mean and variance when it is not trained."""
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _estimate(network: QuantisedNetwork, norms: list[nn.BatchNorm2d], pixels: Tensor) -> None:
    """Batch norms of variance 1 and mean 0 get those of what they see, and compute the same."""
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms}

    def watch(norm: nn.BatchNorm2d, values: tuple[Tensor]) -> None:
        x = values[0].double()
        sums[norm].append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3)), torch.ones_like(x[0, :, 0, 0])]))

    handles = [norm.register_forward_pre_hook(watch) for norm in norms]
    training = network.training
    network.eval()
    for part in pixels.split(64):
        network(part)
    network.train(training)
    for handle in handles:
        handle.remove()
    for norm, seen in sums.items():
        mean, square, count = torch.stack(seen).sum(0)
        mean, square = mean / count, square / count
        variance = (square - mean.square()).clamp_min(0)
        norm.bias.add_(norm.weight * mean)
        norm.weight.mul_((variance + norm.eps).sqrt())
        _running(norm, mean, variance)
