"""Heads in other programs' formats give what they gave before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepclust.features.transform import FeatureTransform
from deepclust.runtime.errors import InputError
from deepclust.training.heads_files import write_safetensors
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads


def heads_of(features, loss="temi", **settings) -> TrainedHeads:
    """Heads as they start, with weights that say something, over a transform that was fitted."""
    recipe = Recipe.of(loss, n_clusters=7, n_heads=3, hidden_dim=24, embedding_dim=6, **settings)
    transform = FeatureTransform.fitted_to(features, recipe.preprocess, recipe.pca_dim)
    heads = recipe.new_heads(transform.out_dim)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in heads.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.5)
    return TrainedHeads(recipe, transform, heads, np.array([0.3, -0.2, 0.1]))


KINDS = [
    ("temi", {"preprocess": "standardize"}),
    ("temi", {"preprocess": "l2", "pca_dim": 5}),
    ("tsp", {"preprocess": "none"}),
    ("turtle", {"head": "normed_linear"}),
    ("dec", {"head": "student_t"}),
]


@pytest.mark.parametrize(("loss", "settings"), KINDS)
def test_an_onnx_file_gives_the_probabilities_of_the_head(planted, tmp_path, loss, settings):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from deepclust.training.onnx_export import export_onnx

    trained = heads_of(planted, loss, **settings)
    for head in (None, 2):
        path = export_onnx(trained, tmp_path / f"{head}.onnx", head)
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for rows in (planted.features, planted.features[:1]):
            probs, clusters = session.run(None, {"features": rows})
            logits = torch.from_numpy(trained.logits(planted.select(np.arange(len(rows))), head))
            expected = torch.softmax(logits / trained.recipe.temperature, dim=1).numpy()
            np.testing.assert_allclose(probs, expected, atol=1e-5)
            np.testing.assert_array_equal(clusters, expected.argmax(axis=1))
    assert len(np.unique(clusters)) > 0
    with pytest.raises(AssertionError):  # the other head is another one
        np.testing.assert_allclose(probs, session.run(None, {"features": planted.features[5:6]})[0], atol=1e-5)


@pytest.mark.parametrize("groups", [None, [0, 1, 1, 2, 0, 2, 2]], ids=["uncut", "cut"])
@pytest.mark.parametrize("confidence", [0.5, 2.0])
def test_what_is_exported_is_cut_and_as_sure_as_the_run_says(groups, confidence, planted, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    from deepclust.training.onnx_export import export_onnx

    trained = heads_of(planted)
    trained.groups_C = None if groups is None else np.array(groups, np.int32)
    trained.confidence_temperature = confidence
    found = trained.assign(planted)
    back = TrainedHeads.load(write_safetensors(trained.state(), tmp_path / "heads.safetensors"))
    np.testing.assert_array_equal(back.assign(planted).top_probs, found.top_probs)
    session = runtime.InferenceSession(export_onnx(trained, tmp_path / "heads.onnx"))
    probs, clusters = session.run(None, {"features": planted.features})
    np.testing.assert_array_equal(clusters, found.labels)
    np.testing.assert_allclose(probs, trained.probabilities(planted), atol=1e-5)
    np.testing.assert_allclose(probs.max(axis=1), found.top_probs[:, 0], atol=1e-5)


def test_a_graph_that_differs_is_refused_and_leaves_no_file(planted, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from deepclust.training import onnx_export

    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="would differ from the heads"):
        onnx_export.export_onnx(heads_of(planted), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("loss", "settings"), KINDS)
def test_safetensors_come_back_as_the_same_heads(planted, tmp_path, loss, settings):
    trained = heads_of(planted, loss, **settings)
    trained.failed_at = {2: 5}
    path = write_safetensors(trained.state(), tmp_path / "heads.safetensors")
    back = TrainedHeads.load(path)
    assert back.recipe.as_dict() == trained.recipe.as_dict()
    assert (back.best_head, back.failed_at) == (1, {2: 5})
    np.testing.assert_array_equal(back.labels_of_heads(planted), trained.labels_of_heads(planted))
    np.testing.assert_array_equal(back.assign(planted).top_probs, trained.assign(planted).top_probs)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="holds no heads"):
        TrainedHeads.load(path)


def test_other_safetensors_are_no_heads(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"deepclust": json.dumps({})})
    with pytest.raises(InputError, match="holds no heads"):
        TrainedHeads.load(tmp_path / "a.safetensors")


def test_heads_are_exported_from_the_command_line(command, planted):
    trained = heads_of(planted)
    for name in ("onnx", "safetensors", "torch"):
        if name == "onnx":
            pytest.importorskip("onnxruntime")
        Path("run/checkpoints").mkdir(parents=True, exist_ok=True)
        trained.save("run/checkpoints/temi.ckpt")
        exported = command("export", "run=run", f"to={name}")
        assert exported.code == 0, exported.err
        assert Path(exported.out.split()[-1]).is_file()
    for words, said in (
        (["run=run", "to=torch", "head=1"], "leave it out"),
        (["run=run", "head=3"], "heads 0 to 2"),
        (["run=run", "method=kmeans"], "choose from temi"),
        (["run=elsewhere"], "holds no heads"),
    ):
        assert said in command("export", *words).error_line
