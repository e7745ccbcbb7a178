"""`deepclust export …`: the trained heads of a run as files that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepclust.cli.configure import run_hydra

SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors", "torch": ".pt"}


def main() -> None:
    run_hydra("export", export)


def export(config: dict[str, Any]) -> None:
    """Write a file per method, and print where they are."""
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.clustering import method_order
    from deepclust.runs.config import read_reduction
    from deepclust.runs.folder import RunFolder
    from deepclust.runtime.errors import InputError
    from deepclust.training.heads_files import write_safetensors
    from deepclust.training.onnx_export import export_onnx
    from deepclust.training.trained import TrainedHeads

    if config["run"] is None:
        raise InputError("name the run: run=<run folder>")
    folder, to, head = RunFolder(Path(config["run"]).expanduser()), config["to"], config["head"]
    if head is not None and to != "onnx":
        raise InputError(f"head= chooses the one head of to=onnx; to={to} has all of them: leave it out")
    methods = sorted(folder.trained_methods(), key=method_order)
    if not methods:
        raise InputError(f"{folder.path} holds no heads (checkpoints/*.ckpt): name a run folder of `deepclust train`")
    if config["method"] is not None and config["method"] not in methods:
        raise InputError(f"method={config['method']} has no heads in {folder.path}: choose from {', '.join(methods)}")
    out = folder.path / "exported" if config["out"] is None else Path(config["out"]).expanduser()
    for method in methods if config["method"] is None else [config["method"]]:
        trained, place = TrainedHeads.load(folder.checkpoint(method)), out / f"{method}{SUFFIXES[to]}"
        if head is not None and head >= trained.recipe.n_heads:
            raise InputError(f"head={head}, but {method} has the heads 0 to {trained.recipe.n_heads - 1}")
        if to == "onnx":
            export_onnx(trained, place, head)
        elif to == "safetensors":
            write_safetensors(trained.state(), place)
        else:
            trained.save(place)
        print(f"written to {place}")
    if folder.config.is_file() and (reduction := read_reduction(folder.read_config())).kind != "none":
        print(f"the heads take features that were reduced by {reduction.kind}, as in {folder.reduction.name}")


if __name__ == "__main__":
    main()
