"""What every search shares: the end-to-end check of settings, and sensitivities of layers.

A check compares a changed network with its lossless self on training images that the search did not calibrate on:
squared error of the logits over their mean square, and accuracy. (A network knows its training images by heart, so
accuracy alone would let nearly everything pass.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.graph.network import Graph
from quant.reference import accuracy, exact_logits, logit_error


def compare_logits(
    changed: Graph, logits: np.ndarray, graph: Graph, exact: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """A changed network beside the lossless one, JSON-able.

    logits, exact : (B, N) of `changed` and of `graph`, in units of their outputs. Gives the logit error, both
    accuracies, the share of accuracy that is lost image by image, and the share of predictions that stay.
    """
    scales = [float(one.output.logit_scale) for one in (changed, graph)]  # type: ignore[attr-defined]
    right, kept = exact.argmax(axis=1) == labels, logits.argmax(axis=1) == labels
    return {
        "logit_error": logit_error(logits * scales[0], exact * scales[1]),
        "accuracy": accuracy(logits, labels),
        "exact_accuracy": accuracy(exact, labels),
        "lost": float((right & ~kept).mean()),
        "agreement": float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean()),
    }


@dataclass(frozen=True, eq=False)
class Check(ABC):
    """Comparison with a lossless network; subclasses say how settings change it.

    graph : the lossless network. images : uint8 (B, C, H, W). labels : (B,). exact : logits of `graph`.
    """

    graph: Graph
    images: np.ndarray
    labels: np.ndarray
    exact: np.ndarray
    threads: int | None = None

    @classmethod
    def of(cls, graph: Graph, images: np.ndarray, labels: np.ndarray, threads: int | None = None) -> Self:
        return cls(graph, images, labels, exact_logits(graph, images), threads)

    @abstractmethod
    def changed(self, settings: Mapping[str, Any]) -> Graph:
        """The network with settings of its layers, by name."""

    def run(self, graph: Graph, images: np.ndarray) -> np.ndarray:
        """Logits of images on a changed network."""
        return GraphRunner(graph, threads=self.threads).run(images)[0]

    def measure(self, settings: Mapping[str, Any], images: int | None = None) -> dict[str, float]:
        """`compare_logits` of settings, on all or the first `images` images."""
        return self.compare(self.changed(settings), images)

    def compare(self, changed: Graph, images: int | None = None) -> dict[str, float]:
        """`measure` of the same network with other registers."""
        logits = self.run(changed, self.images[:images])
        return compare_logits(changed, logits, self.graph, self.exact[:images], self.labels[:images])

    def sensitivities(
        self, lossless: Mapping[str, Any], scores: Mapping[str, Any], images: int, progress: Progress | None = None
    ) -> dict[str, float]:
        """How much of a layer's relative error arrives in the logits (*ours*): each layer disturbed alone, once.

        lossless : settings of all layers. scores : of every layer, with output_error, (candidates,), and
        take(candidate). images : how many of the check's are run.
        """
        found: dict[str, float] = {}
        for index, (name, one) in enumerate(scores.items()):
            near = int(np.argmin(np.abs(np.log10(np.maximum(one.output_error, 1e-12)) + 2)))  # an error near 1 %
            made = self.measure({**lossless, name: one.take(near)}, images)
            found[name] = max(made["logit_error"], 1e-9) / max(float(one.output_error[near]), 1e-9)
            if progress is not None:
                progress(index + 1, len(scores))
        return found
