"""Relabel a data set's samples down its class tree with CLIP: what benchmark=leaf_hzr and benchmark=p_hzr start from.

deepclust relabel --data imagenet21k                 image features by OpenCLIP ViT-bigG/14 lie ready, text by the model
deepclust relabel --data imagenet21k --text T.npy    text features made elsewhere, one row per class
deepclust relabel … --out features/imagenet21k/ibot_vitl16/benchmarks    where training finds them for iBOT's features

Written are leaf_hzr_<split>.npy and p_hzr_<split>.npy: the new class of each sample; zero_shot_<split>.npz: the class
that CLIP gives each sample and its confidence, among all classes, those of the same level, and siblings; zero_shot.json
and zero_shot_<split>.png, .svg: accuracy and calibration of these (the paper's figure 7). Where the images are still in
their files, reassessed_<split>/<number>-<class>.jpg: what p-HZR made of the classes that it changed
most (figures 1 and 9 to 11).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.cli.arguments import Arguments, path
from deepclust.features.arrays import as_matrix, check_rows
from deepclust.features.feature_files import read_npy
from deepclust.runtime.errors import InputError, one_line_errors

# OpenCLIP ViT-G of Adaloglou et al. 2024, section 4.2: of open_clip's, bigG, as its g is lower case.
RELABELING_CLIP = "openclip_vitbigg14"
# What CLIP chooses among (appendix B.5), and what the panels of the figure are called.
AMONG = {"all": "All classes", "level": "Same level", "siblings": "Siblings"}


def main() -> None:
    parser = Arguments("relabel", __doc__)
    parser.add_argument("--data", required=True, help="a data set whose features by a CLIP model lie ready")
    parser.add_argument(
        "--clip",
        default=RELABELING_CLIP,
        help=f"that model, as `deepclust extract --help` names it (default: {RELABELING_CLIP}, the paper's)",
    )
    parser.add_argument("--features-dir", help="where features lie (default: $DEEPCLUST_FEATURES, else features)")
    parser.add_argument(
        "--hierarchy", help="a .pth tree file, a .txt is-a list, a .csv of child,parent, or WordNet's folder"
    )
    parser.add_argument("--text", type=path, help=".npy of text features, one row per class; else the model makes them")
    parser.add_argument("--out", type=path, help="default: benchmarks/ beside the image features")
    with one_line_errors():
        options = parser.parse_args()
        relabel_data(options)


def relabel_data(options: argparse.Namespace) -> None:
    from deepclust.extraction.datasets import load_dataset
    from deepclust.metrics.calibration import calibration_of
    from deepclust.report.calibration_figures import reliability_figure
    from deepclust.report.figures import save_figure
    from deepclust.report.reassessed import write_reassessed
    from deepclust.runtime.files import write_json, written_whole
    from deepclust.subsets.clip_labels import choose_lemmas, classify_by_clip, relabel
    from deepclust.subsets.select import classes_of

    dataset = load_dataset(options.data, encoder=options.clip, features_dir=options.features_dir)
    classes = classes_of(dataset, hierarchy=options.hierarchy)
    hierarchy = classes.find_hierarchy()
    nodes_K = hierarchy.nodes_of(classes.names)
    if len(np.unique(nodes_K)) != len(hierarchy):
        raise InputError(
            f"{len(hierarchy) - len(nodes_K)} nodes of {hierarchy.source} are no classes of data={options.data}: "
            "samples can only be relabeled to classes, give a hierarchy of these alone"
        )
    class_of_M = np.argsort(nodes_K)
    train = dataset.train
    assert train.labels is not None
    if options.text is not None:
        text_KD = as_matrix(read_npy(options.text), str(options.text))
        if len(text_KD) != len(class_of_M):
            raise InputError(f"{options.text} has {len(text_KD)} rows for {len(class_of_M)} classes")
        check_rows(text_KD.astype(np.float32), name=str(options.text))
        text_MD = text_KD[class_of_M]
    else:
        from deepclust.extraction.encoders import load_encoder

        lemmas = hierarchy.lemmas or tuple((name,) for name in hierarchy.names)
        encode_text = load_encoder(options.clip).encode_text
        _, text_MD = choose_lemmas(train.features, nodes_K[train.labels], lemmas, encode_text)
    out = options.out or (Path("benchmarks") if train.root is None else train.root.parent / "benchmarks")
    calibrations = {}
    for split, features in dataset.splits().items():
        assert features.labels is not None
        nodes_N = nodes_K[features.labels]
        for name, with_parent in (("leaf_hzr", False), ("p_hzr", True)):
            new_N = class_of_M[relabel(features.features, nodes_N, hierarchy, text_MD, with_parent=with_parent)]
            with written_whole(out / f"{name}_{split}.npy") as temporary:
                np.save(temporary, new_N.astype(np.int32))
            if with_parent and features.files is not None and features.files[0].is_file():
                words = hierarchy.lemmas or [(name,) for name in hierarchy.names]
                titles = [words[node][0] for node in nodes_K]
                write_reassessed(out / f"reassessed_{split}", features.files, features.labels, new_N, titles)
            changed = float((new_N != features.labels).mean())
            print(f"{split}: {name} relabels {100 * changed:.1f} % of {len(new_N)} samples")
        told = {among: classify_by_clip(features.features, nodes_N, hierarchy, text_MD, among=among) for among in AMONG}
        with written_whole(out / f"zero_shot_{split}.npz") as temporary:
            arrays: dict[str, Any] = {}
            for among, labels in told.items():
                arrays[f"{among}_class"] = class_of_M[labels.nodes_N].astype(np.int32)
                arrays[f"{among}_confidence"] = labels.confidence_N
            np.savez_compressed(temporary, **arrays)
        found = {
            among: calibration_of(labels.confidence_N, labels.nodes_N == nodes_N, name="CLIP")
            for among, labels in told.items()
        }
        calibrations[split] = {among: one.as_dict() for among, one in found.items()}
        save_figure(reliability_figure({AMONG[among]: one for among, one in found.items()}), out / f"zero_shot_{split}")
        shown = ", ".join(
            f"{among} {100 * one.accuracy:.2f} % (ECE {100 * one.ece:.1f}, mean confidence "
            f"{100 * one.mean_confidence:.1f} %)"
            for among, one in found.items()
        )
        print(f"{split}: zero-shot among {shown}")
    write_json(out / "zero_shot.json", calibrations)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
