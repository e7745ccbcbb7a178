"""`experiment=…_paper data=…` composes to what was published: every value with the place where it stands.

A2023: Adaloglou et al. 2023 (TEMI); A2024: Adaloglou et al. 2024; Z2022: Zhou & Zhang 2022. README and arguments are
those of the TEMI authors' code, HHU-MMBS/TEMI-official-BMVC2023.
"""

from __future__ import annotations

from typing import Any

import pytest

from deepclust.cli.configure import composed
from deepclust.training.recipe import Recipe

Table = dict[str, tuple[Any, str]]

COMMAND = "README, the CIFAR10 command of 'TEMI: how to train the head'"
SELF_DISTILLED: Table = {
    "head": ("mlp", "A2024 section 3; main_args.py: --nlayers 2"),
    "hidden_dim": (512, "main_args.py: --hidden_dim"),
    "embedding_dim": (256, "main_args.py: --bottleneck_dim"),
    "temperature": (0.1, "main_args.py: --teacher_temp; losses: student_temp"),
    "n_neighbors": (50, f"{COMMAND}: --knn"),
    "n_heads": (16, f"{COMMAND}: --num_heads"),
    "max_epochs": (100, f"{COMMAND}: --epochs"),
    "batch_size": (1024, f"{COMMAND}: --batch_size"),
    "preprocess": ("none", f"{COMMAND}: without --embed_norm"),
    "pca_dim": (None, COMMAND),
    "init": ("random", "model_builders/multi_head.py: truncated normal, std 0.02"),
    "optimizer": ("adamw", "main_args.py: --optimizer"),
    "learning_rate": (1e-4, f"{COMMAND}: --lr, at a batch of 256"),
    "lr_schedule": ("constant", f"{COMMAND}: --min_lr equals --lr"),
    "warmup_fraction": (0.2, f"{COMMAND}: --warmup_epochs 20 of 100"),
    "weight_decay": (1e-4, "main_args.py: --weight_decay and --weight_decay_end"),
    "decay_gains": (True, "utils.py: get_params_groups spares biases and vectors; weight_g is (C, 1)"),
    "teacher_momentum": (0.996, f"{COMMAND}: --max_momentum_teacher equals --momentum_teacher"),
    "freeze_prototypes_epochs": (1, "main_args.py: --freeze_last_layer"),
    "gradient_clip": (None, "main_args.py: --clip_grad 0"),
    "patience": (None, "trains to the end"),
}
TEMI: Table = {
    **SELF_DISTILLED,
    "beta": (0.6, f"A2024 section 3; {COMMAND}: --loss-args beta"),
    "marginal_momentum": (0.9, "losses/multihead_losses.py: probs_momentum"),
}
SCAN: Table = {**SELF_DISTILLED, "entropy_weight": (5.0, "A2024 section 3, below eq. 2")}
TSP: Table = {
    "head": ("linear", "Z2022 section 3.2"),
    "n_heads": (1, "Z2022 section 3.2"),
    "temperature": (1.0, "Z2022 section 3.2: a plain softmax"),
    "n_neighbors": (20, "Z2022 section 4.1"),
    "entropy_weight": (3.0, "Z2022 section 4.1: λ"),
    "init": ("kmeans_l2", "Z2022 appendix A: K-means on the latent space"),
    "preprocess": ("none", "Z2022 eq. 4: the latent space itself"),
    "optimizer": ("adam", "Z2022 section 4.1"),
    "learning_rate": (1e-4, "Z2022 section 4.1, at its batch of 256"),
    "lr_schedule": ("constant", "Z2022 section 4.1 names no schedule"),
    "warmup_fraction": (0.0, "Z2022 section 4.1 names no warm-up"),
    "weight_decay": (0.0, "Z2022 section 4.1 names none"),
    "batch_size": (256, "Z2022 section 4.1"),
    "max_epochs": (100, "Z2022 section 4.1"),
    "freeze_prototypes_epochs": (0, "Z2022 section 3.2: the head is all that is trained"),
    "patience": (None, "Z2022 section 4.1: 100 epochs"),
}
IMAGENET: Table = {
    "n_heads": (32, "A2024 section 5"),
    "max_epochs": (50, "A2024 section 5"),
    "preprocess": ("standardize", "README, the command for IN1K: --embed_norm"),
}
IMAGENET21K: Table = {
    "n_heads": (32, "A2024 section 5"),
    "max_epochs": (25, "A2024 section 5"),
    "n_neighbors": (25, "README, the command for many clusters: --knn"),
    "preprocess": ("standardize", "README, the command for IN1K: --embed_norm"),
}
TEMI_BATCH: Table = {"batch_size": (512, "A2024 section 5 and B.4: 512 for TEMI")}
SCAN_BATCH: Table = {"batch_size": (4096, "A2024 sections 5 and 6: 4096 for SCANv2")}
SMALL = ("cifar10", "cifar20", "cifar100")
LARGE = ("imagenet", "imagenet21k")
PUBLISHED: dict[tuple[str, str], Table] = {
    **{("temi", data): TEMI for data in SMALL},
    **{("scan", data): SCAN for data in SMALL},
    **{("tsp", data): TSP for data in (*SMALL, *LARGE)},
    ("temi", "imagenet"): {**TEMI, **IMAGENET, **TEMI_BATCH},
    ("temi", "imagenet21k"): {**TEMI, **IMAGENET21K, **TEMI_BATCH},
    ("scan", "imagenet"): {**SCAN, **IMAGENET, **SCAN_BATCH},
    ("scan", "imagenet21k"): {**SCAN, **IMAGENET21K, **SCAN_BATCH},
}
# Z2022 table 1 (with SCAN's CIFAR100-20 row), A2024 section 3.
CLASSES = {"cifar10": 10, "cifar20": 20, "cifar100": 100, "imagenet": 1000, "imagenet21k": 10_450}


@pytest.mark.parametrize(("loss", "data"), PUBLISHED)
def test_an_experiment_on_a_data_set_is_the_published_recipe(loss, data):
    settings = composed("train", [f"experiment={loss}_paper", f"data={data}"])
    assert list(settings["loss"]) == [loss]
    saved = Recipe.of(loss, **settings["loss"][loss], n_clusters=CLASSES[data]).as_dict()
    found = {**saved.pop("loss_options"), **saved}
    for key, (value, source) in PUBLISHED[loss, data].items():
        assert found[key] == value, f"{key}: {source}"
    # main_args.py: --use_fp16 false; Zhou & Zhang speak of no other precision than the default.
    assert settings["trainer"]["precision"] == 32
    assert settings["data"]["n_clusters"] == CLASSES[data]


def test_the_command_line_wins_over_the_experiment_on_its_data_set():
    settings = composed("train", ["experiment=temi_paper", "data=imagenet", "n_heads=3", "loss.temi.max_epochs=7"])
    assert (settings["loss"]["temi"]["n_heads"], settings["loss"]["temi"]["max_epochs"]) == (3, 7)
    assert composed("train", ["experiment=temi_paper", "trainer.precision=auto"])["trainer"]["precision"] == "auto"
