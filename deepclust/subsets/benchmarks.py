"""The benchmarks of ImageNet-21K by name, with their settings (Adaloglou et al. 2024, section 4).

The settings are those of `deepclust.subsets.select.select_benchmark`: the rule and its options. None is a default that
the rule's reader fills in:

- `hierarchy`: what comes with the package, or WordNet's; else a .pth tree file, ImageNet's is-a list (.txt), a .csv of
  child,parent, or WordNet's
  folder. `links` says how WordNet is read: `paper`, or `direct` and `nearest` with `hypernym`, which of several parents
  counts (first or last).
- `accuracies`: `<features>/benchmarks/<name>_accuracies.json`; else a probe's accuracy on each class: the
  probe_class_accuracy.json of an evaluation, a .csv of class,accuracy, or a .npy.
- `relabels`: `<features>/benchmarks/<name>_<split>.npy`; else a .npy with the new class of each sample, -1 to drop it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HIERARCHY: Mapping[str, Any] = {"hierarchy": None, "links": "paper", "hypernym": "last"}
_RELABELS: Mapping[str, Any] = {"relabels": {"train": None, "test": None}}
# How far each size reaches to both sides of the median frequency, in percentiles.
_SPREADS = {"tiny": 5, "small": 15, "base": 25, "large": 35, "huge": 45}
# The model whose linear probe decides which classes are easiest.
_PROBED = {"clip_1k": "OpenCLIP ViT-G", "dinov2_1k": "DINOv2 ViT-g", "sup_1k": "a supervised ViT-L"}
# Section 4.2 speaks of 1 to 9, table 5 has 1 to 8.
_DEPTHS = range(1, 10)

_RULES: Mapping[str, Mapping[str, Any]] = {
    "all": {"rule": "everything"},
    **{name: {"rule": "around_median", "spread": spread} for name, spread in _SPREADS.items()},
    "imbalanced_2k": {"rule": "imbalanced", "percent": 10},
    "centered_2k": {"rule": "centered", "percent": 10},
    "odd": {"rule": "odd", "seed": 0},
    **{f"coarse_{depth}": {"rule": "coarse", "depth": depth, **_HIERARCHY} for depth in _DEPTHS},
    "wordnet_leaf": {"rule": "source_leaf", **_HIERARCHY},
    "in21k_leaf": {"rule": "tree_leaf", **_HIERARCHY},
    "p_hzr": {"rule": "relabeled", **_RELABELS},
    "leaf_hzr": {"rule": "relabeled", **_RELABELS},
    **{name: {"rule": "easiest", "n_classes": 1000, "accuracies": None} for name in _PROBED},
    "union": {"rule": "union", "n_classes": 1000, "accuracies": dict.fromkeys(_PROBED)},
    "random_1k": {"rule": "random", "n_classes": 1000, "seed": 0},
}

# The settings that select each benchmark.
BENCHMARKS: Mapping[str, Mapping[str, Any]] = {name: {"name": name, **settings} for name, settings in _RULES.items()}

# What each benchmark is, in one line, and where the paper defines it.
ABOUT: Mapping[str, str] = {
    "all": "Every class and sample, as a step of a sweep over benchmarks.",
    **{
        name: f"Classes whose frequency lies within the percentiles {50 - spread} to {50 + spread} (section 4.1)."
        for name, spread in _SPREADS.items()
    },
    "imbalanced_2k": "The central 10 % of the classes by frequency and the 10 % most frequent (section 4.1).",
    "centered_2k": "As many classes as imbalanced_2k, centered on the median frequency (section 4.1).",
    "odd": "Classes of odd number lose half of their training samples; validation stays as it is (section 3).",
    **{
        f"coarse_{depth}": f"Classes deeper than {depth} in the hierarchy become coarser; samples stay (section 4.2)."
        for depth in _DEPTHS
    },
    "wordnet_leaf": "Classes without a hyponym in WordNet (section 4.2).",
    "in21k_leaf": "Classes below which the hierarchy has no class (section 4.2).",
    "p_hzr": "CLIP relabels samples down the hierarchy and may stop at any class (section 4.2).",
    "leaf_hzr": "CLIP relabels samples down to the leaves of the hierarchy (section 4.2).",
    **{
        name: f"The classes that a linear probe on {model} gets most right (section 4.3)."
        for name, model in _PROBED.items()
    },
    "union": "The classes that any of the three models' probes gets most right (section 4.3).",
    "random_1k": "Classes drawn at random (section 4.3).",
}
