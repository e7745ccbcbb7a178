"""Trained heads as an ONNX graph: transform, one head, cut, softmax; its output is compared with ours before it is
written.

The graph takes `features` (N, D) float32 and gives `probabilities` (N, C) float32 and `clusters` (N,) int64, those that
`TrainedHeads.assign` gives.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepclust.clustering import TOP
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole
from deepclust.training.heads import DIRECTIONS, Heads, LinearHeads, MLPHeads, StudentTHeads
from deepclust.training.trained import TrainedHeads

# Of the ONNX standard; runtimes since 2022 read it.
OPSET, IR_VERSION = 17, 8
# By how much a probability may differ.
TOLERANCE = 1e-5
CHECKED_ROWS = 256


class _Graph:
    """Nodes and constants of a graph, collected one after the other."""

    def __init__(self) -> None:
        import onnx

        self._make = onnx.helper.make_node
        self._array = onnx.numpy_helper.from_array
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        """The name of a constant."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.constants.append(self._array(np.ascontiguousarray(array), name))
        return name

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))

    def __call__(self, kind: str, *inputs: str, name: str = "", **options: Any) -> str:
        """Add a node; gives the name of its output."""
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self._make(kind, list(inputs), [name], **options))
        return name

    def unit_rows(self, rows: str) -> str:
        """Rows divided by their lengths, of at least 1e-12 as in torch."""
        length = self("ReduceL2", rows, axes=[1], keepdims=1)
        return self("Div", rows, self("Max", length, self.number(f"shortest_{len(self.nodes)}", 1e-12)))

    def largest(self, rows: str, n: int) -> tuple[str, str]:
        """The largest values of each row, and their columns."""
        values, columns = f"largest_{len(self.nodes)}", f"columns_{len(self.nodes)}"
        count = self.constant(f"count_{len(self.nodes)}", np.array([n], np.int64))
        self.nodes.append(self._make("TopK", [rows, count], [values, columns], axis=1))
        return values, columns

    def product(self, rows: str, name: str, weight: Tensor) -> str:
        """Rows times the transpose of a weight."""
        return self("MatMul", rows, self.constant(name, weight.T))


def export_onnx(trained: TrainedHeads, path: str | os.PathLike, head: int | None = None) -> Path:
    """Write the best head as an ONNX file, with its transform, its cut and its confidence.

    Args:
        trained: the heads.
        path: of the file.
        head: another one instead, uncut and with its own confidence.

    Raises:
        InputError: if onnx and onnxruntime are not installed, the heads are of a kind that has no graph, or the file
            would give other probabilities than the heads (by more than 1e-5).

    Example:
        >>> export_onnx(TrainedHeads.load("temi.ckpt"), "temi.onnx")  # doctest: +SKIP
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise InputError("to=onnx needs onnx and onnxruntime: pip install 'deepclust[onnx]'") from None
    trained.to("cpu")
    one = trained.heads.single(trained.best_head if head is None else head)
    graph = _Graph()
    logits = _head(graph, one, _transform(graph, trained))
    scores = graph("Div", logits, graph.number("temperature", trained.recipe.temperature))
    n_clusters = trained.recipe.n_clusters
    if head is None:
        n_clusters = trained.n_clusters
        scores = _cut(graph, scores, trained)
        scores = graph("Div", scores, graph.number("confidence_temperature", trained.confidence_temperature))
    graph("Softmax", scores, name="probabilities", axis=1)
    graph("ArgMax", scores, name="clusters", axis=1, keepdims=0)
    info = onnx.helper.make_tensor_value_info
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            trained.recipe.loss.name,
            [info("features", float32, ["N", trained.in_dim])],
            [info("probabilities", float32, ["N", n_clusters]), info("clusters", int64, ["N"])],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="deepclust",
    )
    onnx.checker.check_model(model)
    with written_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        _compare(session, trained, head)
    return Path(path)


def _transform(graph: _Graph, trained: TrainedHeads) -> str:
    """What `FeatureTransform.forward` does."""
    transform, rows = trained.transform, "features"
    if transform.kind == "standardize" or transform.pca_dim is not None:
        centered = graph("Sub", rows, graph.constant("mean", transform.mean))
        rows = graph("Mul", centered, graph.constant("scale", transform.scale))
    if transform.pca_dim is not None:
        rows = graph.product(rows, "components", transform.components.T)
    return graph.unit_rows(rows) if transform.kind == "l2" else rows


def _head(graph: _Graph, one: Heads, rows: str) -> str:
    """Logits of one head, in the plain form of what its class computes."""
    weights = {name: value[0].detach() for name, value in one.weights().items()}
    if isinstance(one, MLPHeads):
        hidden = graph.product(rows, "hidden_weight", weights["hidden_weight"])
        hidden = graph("Add", hidden, graph.constant("hidden_bias", weights["hidden_bias"]))
        # gelu(x) = x / 2 · (1 + erf(x / √2))
        erf = graph("Erf", graph("Mul", hidden, graph.number("inverse_root_two", 2**-0.5)))
        gelu = graph(
            "Mul", graph("Mul", hidden, graph.number("half", 0.5)), graph("Add", erf, graph.number("one", 1.0))
        )
        embedding = graph.product(gelu, "embedding_weight", weights["embedding_weight"])
        embedding = graph("Add", embedding, graph.constant("embedding_bias", weights["embedding_bias"]))
        return graph.product(graph.unit_rows(embedding), DIRECTIONS, weights[DIRECTIONS])
    if isinstance(one, LinearHeads):  # and those with normed weights
        return graph.product(rows, "prototypes", weights[one.prototype_weights[0]])
    if isinstance(one, StudentTHeads):
        embedding, centers = graph.product(rows, "encoder", weights["encoder"]), weights["prototypes"]
        lengths = graph("ReduceSumSquare", embedding, axes=[1], keepdims=1)
        doubled = graph.product(embedding, "centers", -2 * centers)
        squared = graph("Add", doubled, graph.constant("squared_centers", centers.square().sum(dim=1)))
        squared = graph("Max", graph("Add", squared, lengths), graph.number("zero", 0.0))
        return graph("Neg", graph("Log", graph("Add", squared, graph.number("one", 1.0))))
    raise InputError(f"heads of the kind {type(one).__name__} have no ONNX graph: export them with to=torch")


def _cut(graph: _Graph, scores: str, trained: TrainedHeads) -> str:
    """What `cut_scores` does, where the tree of the clusters was cut."""
    if trained.groups_C is None:
        return scores
    probabilities = graph("Softmax", scores, axis=1)
    values, ids = graph.largest(probabilities, min(TOP, trained.recipe.n_clusters))
    none = graph("Mul", probabilities, graph.number("none", 0.0))
    most_probable = graph("ScatterElements", none, ids, values, axis=1)
    member_CG = np.eye(trained.n_clusters, dtype=np.float32)[trained.groups_C]
    return graph("Log", graph("MatMul", most_probable, graph.constant("groups", member_CG)))


def _compare(session: Any, trained: TrainedHeads, head: int | None) -> None:
    """Refuse a graph that gives other probabilities than the heads, on rows like those they were trained on."""
    generator = torch.Generator().manual_seed(0)
    rows_BD = torch.randn(CHECKED_ROWS, trained.in_dim, generator=generator)
    spread = torch.where(trained.transform.scale > 0, 1 / trained.transform.scale, torch.ones(()))
    rows_BD = rows_BD * spread + trained.transform.mean
    features = FeatureSet.from_arrays(rows_BD)
    if head is None:
        ours_BC = trained.probabilities(features)
    else:
        logits_BC = torch.from_numpy(trained.logits(features, head))
        ours_BC = torch.softmax(logits_BC / trained.recipe.temperature, dim=1).numpy()
    theirs_BC, clusters_B = session.run(["probabilities", "clusters"], {"features": rows_BD.numpy()})
    furthest = float(np.abs(ours_BC - theirs_BC).max())
    # Where two clusters are as probable, either is the first.
    chosen_B = np.take_along_axis(ours_BC, clusters_B[:, None], axis=1)[:, 0]
    if not furthest <= TOLERANCE or not (ours_BC.max(axis=1) - chosen_B <= TOLERANCE).all():
        raise InputError(
            f"the ONNX file would differ from the heads by {furthest:.1e} in a probability, more than {TOLERANCE:g}: "
            "export them with to=torch or to=safetensors"
        )
