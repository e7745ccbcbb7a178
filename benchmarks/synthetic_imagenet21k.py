"""Synthesise ImageNet-21K's class structure as features, to rehearse every benchmark at full class scale.

    python benchmarks/synthetic_imagenet21k.py /tmp/rehearsal
    deepclust train -m experiment=imagenet21k_rehearsal features_dir=/tmp/rehearsal run_dir=runs/rehearsal

No figure that comes of these features says anything about images. Written are FeatureSet folders as `deepclust
extract` would (`imagenet21k/synthetic/{train,test}`), and beside them, in `benchmarks/`, what some benchmarks need:
the accuracies of three simulated models on each class, and the labels that leaf HZR and p-HZR find with simulated
text features.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import one_line_errors
from deepclust.runtime.files import written_whole
from deepclust.subsets.clip_labels import relabel
from deepclust.subsets.counts import imagenet21k_synsets
from deepclust.subsets.hierarchy import wordnet_hierarchy
from deepclust.subsets.synthetic import SyntheticClasses, class_counts, synthetic_classes
from deepclust.subsets.wordnet import read_wordnet

MODELS = ("clip_1k", "dinov2_1k", "sup_1k")
# Samples per class that a simulated model's accuracy is measured on, and the length of what it adds to a feature.
PROBE_SAMPLES, PROBE_NOISE = 10, 0.5
# How far, relative to its length, the text feature of a class lies from its mean.
TEXT_NOISE = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=523_000, help="training samples (default %(default)s)")
    parser.add_argument("--val-per-class", type=int, default=5)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with one_line_errors():
        synthesize(options.folder / "imagenet21k" / "synthetic", options)


def synthesize(folder: Path, options: argparse.Namespace) -> None:
    started = time.perf_counter()
    synsets = imagenet21k_synsets()
    wordnet = read_wordnet()
    # The means diffuse over the nearest links, so that all classes hang together; the benchmarks use their own.
    classes = synthetic_classes(wordnet_hierarchy(synsets, wordnet, links="nearest"), options.dim, seed=options.seed)
    hierarchy = wordnet_hierarchy(synsets, wordnet)
    rng = np.random.default_rng([options.seed, 1])
    counts_K = class_counts(len(synsets), options.rows, seed=options.seed)
    labels = {
        "train": np.repeat(np.arange(len(synsets)), counts_K),
        "test": np.repeat(np.arange(len(synsets)), options.val_per_class),
    }
    offsets_KD = rng.standard_normal(classes.means_KD.shape).astype(np.float32)
    offsets_KD *= TEXT_NOISE * np.linalg.norm(classes.means_KD, axis=1, keepdims=True) / np.sqrt(options.dim)
    text_KD = classes.means_KD + offsets_KD
    for split, labels_N in labels.items():
        features_ND, _ = classes.draw(labels_N, rng)
        manifest = {"encoder": {"name": "synthetic"}, "source": {"kind": "synthetic", "seed": options.seed}}
        FeatureSet.from_arrays(features_ND, labels_N, class_names=synsets, manifest=manifest).save(folder / split)
        for name, with_parent in (("leaf_hzr", False), ("p_hzr", True)):
            new_N = relabel(features_ND, labels_N, hierarchy, text_KD, with_parent=with_parent)
            save(folder / "benchmarks" / f"{name}_{split}.npy", new_N.astype(np.int32))
            changed = (new_N != labels_N).mean()
            print(f"{split}: {name} relabels {100 * changed:.1f} % of {len(labels_N)} samples")
    for name in MODELS:
        accuracies_K = simulated_accuracies(classes, rng)
        save(folder / "benchmarks" / f"{name}_accuracies.npy", accuracies_K)
        easiest = np.sort(accuracies_K)[-1000:].mean()
        print(
            f"{name}: {100 * accuracies_K.mean():.1f} % over all classes, {100 * easiest:.1f} % over its 1000 easiest"
        )
    print(f"{folder}: {len(labels['train'])} + {len(labels['test'])} samples in {time.perf_counter() - started:.0f} s")


def simulated_accuracies(classes: SyntheticClasses, rng: np.random.Generator) -> np.ndarray:
    """(K,) accuracies on fresh samples of whoever knows where each class lies, seen through noise of the model's own.

    In place of a linear probe a sample goes to the class whose segment, mean ± stretch, is nearest to it.
    """
    n_classes, dim = classes.means_KD.shape
    means_DK = torch.from_numpy(classes.means_KD).T.contiguous()
    halves_K = means_DK.square().sum(dim=0) / 2
    stretch_DK = torch.from_numpy(classes.stretch_KD).T.contiguous()
    square_K = stretch_DK.square().sum(dim=0).clamp_min(1e-12)
    along_means_K = (means_DK * stretch_DK).sum(dim=0)
    labels_N = np.repeat(np.arange(n_classes), PROBE_SAMPLES)
    right_N = np.empty(len(labels_N), bool)
    for start in range(0, len(labels_N), 4096):
        own_B = labels_N[start : start + 4096]
        rows_BD = classes.draw(own_B, rng)[0].astype(np.float32)
        rows_BD += PROBE_NOISE / np.sqrt(dim) * rng.standard_normal(rows_BD.shape, dtype=np.float32)
        rows = torch.from_numpy(rows_BD)
        # -|x - m - p s|² / 2, less |x|² / 2, for the nearest place p in [-1, 1] of the segment.
        along_BK = rows @ stretch_DK - along_means_K
        place_BK = (along_BK / square_K).clamp_(-1, 1)
        score_BK = rows @ means_DK - halves_K + place_BK * (along_BK - place_BK * square_K / 2)
        right_N[start : start + len(own_B)] = score_BK.argmax(dim=1).numpy() == own_B
    # Among classes that it gets all right a model still has preferences: the less noisy ones, as far as it can tell.
    preference_K = rng.standard_normal(n_classes) - 5 * np.log(classes.noise_K)
    return right_N.reshape(n_classes, PROBE_SAMPLES).mean(axis=1) + 1e-6 * preference_K


def save(path: Path, content: np.ndarray) -> None:
    with written_whole(path) as temporary:
        np.save(temporary, content)


if __name__ == "__main__":
    main()
