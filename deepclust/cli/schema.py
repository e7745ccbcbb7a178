"""The settings of every command that Hydra composes, each with its type and range.

What a recipe, the trainer, a clusterer or another class declares is taken from there. Declared here are the others.
`check` is called before anything is read or written.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from deepclust.clusterers import CLUSTERERS, clusterer_class
from deepclust.cuts.exploration import what_n_clusters_is
from deepclust.extraction.backbones import POOLINGS
from deepclust.extraction.encoder_catalog import INTERPOLATIONS, LIBRARIES
from deepclust.extraction.encoders import PRECISIONS as ENCODING_PRECISIONS
from deepclust.extraction.extract import DTYPES, ENGINES
from deepclust.extraction.studies import STUDIES
from deepclust.features.columns import TABLE_ROLES
from deepclust.features.transform import PREPROCESSINGS
from deepclust.finetuning.finetune_settings import FinetuneSettings
from deepclust.losses import LOSSES
from deepclust.metrics.intrinsic import SILHOUETTES
from deepclust.metrics.linear_probe import PRECISIONS as PROBE_PRECISIONS
from deepclust.neighbors.mining import MiningSettings
from deepclust.reduction.reduction import KINDS, Reduction
from deepclust.report.map_layout import MAPS
from deepclust.runs.editing import FOLDERS
from deepclust.runs.experiment import Experiment
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import ANYTHING, Group, Member, check_value, seed_setting, setting, settings_of
from deepclust.subsets.hierarchy import LINKS
from deepclust.subsets.select import RULES
from deepclust.training.loggers import logger_group
from deepclust.training.recipe import Recipe
from deepclust.training.trainer_settings import PRECISIONS, TrainerSettings
from deepclust.zero_shot.data import DataSpec
from deepclust.zero_shot.protocol import Candidates

Settings = Mapping[str, Any]
# Those of a recipe that are given for every loss at once.
SHARED = ("head", "init", "n_heads", "n_neighbors", "max_epochs", "patience", "learning_rate", "preprocess", "pca_dim")
SHARED_OF_DATA = ("batch_size", "micro_batch_size")


def _files(value: Any) -> str | None:
    """A file, or one for each of several names."""
    texts = value.values() if isinstance(value, Mapping) else [value]
    return None if all(text is None or isinstance(text, str) for text in texts) else "a file, or a file for each name"


def _names(value: Any) -> str | None:
    names = [value] if isinstance(value, str) else value
    good = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
    return None if good else "a list of names, such as [probe]"


PLACE = setting(None, "where things lie", text=True)


def _places(value: Any) -> str | None:
    """A place, or several."""
    places = value if isinstance(value, (list, tuple)) else [value]
    try:
        for place in places:
            check_value(PLACE, place)
    except InputError:
        places = []
    return None if places else "a file or a folder, or a list of them"


def _columns(value: Any) -> str | None:
    names = value if isinstance(value, (list, tuple)) else [value]
    good = all(isinstance(name, str) and name for name in names) and names
    return None if value is None or good else "the name of a column, PREFIX*, or a list of names"


SPACES = setting(None, "where features lie, or a list of places: several spaces of the same samples", such=_places)
NAMES = setting(about="names", each=True, text=True)
N_CLUSTERS = setting(None, "C, or where it is to be found", such=what_n_clusters_is)

# Those of data=.
DATA: dict[str, Member] = {
    "name": setting(about="of the data set", text=True),
    "encoder": setting(None, "the data set's own", text=True),
    **dict.fromkeys(("train", "test"), SPACES),
    **dict.fromkeys(("train_labels", "test_labels", "path"), PLACE),
    "labels": setting(None, "`folders`: sub-folders are labels", choices=("folders",)),
    "on_error": setting("skip", "for images that cannot be read", choices=("skip", "raise")),
    "columns": Group(
        "data.columns",
        {
            "embedding": setting(None, "a list column, number columns [A,B,…] or PREFIX* of a table", such=_columns),
            **{role: setting(None, f"the column with the {role} of each row", text=True) for role in TABLE_ROLES[1:]},
        },
        optional=True,
    ),
    "in_memory": setting(None, "of `fit_heads`", flag=True),
    "n_clusters": setting(None, "C, where it is known", at_least=2, whole=True),
}
# Those of encoder=; `EncoderSpec` says what they mean.
ENCODER: dict[str, Member] = {
    "name": setting(None, "of the encoder", text=True),
    "library": setting(None, "which has the architecture", choices=LIBRARIES),
    "model": setting(None, "its name there", text=True),
    "pretrained": setting(None, "which weights", text=True),
    "checkpoint": PLACE,
    "image_size": setting(None, "pixels", choices=("own",), at_least=1, at_most=8192, whole=True),
    "crop_pct": setting(None, "share of the short side", choices=("own",), above=0, at_most=1),
    "interpolation": setting(None, "of the resize", choices=("own", *INTERPOLATIONS)),
    "study": setting(None, "whose rule cuts the images", choices=STUDIES),
    "pooling": setting(None, "of the patches", choices=POOLINGS),
    "layer": setting(None, "block to read", whole=True),
    "dim": setting(None, "width", at_least=1, whole=True),
    **dict.fromkeys(("title", "url", "keys", "model_options", "mean", "std"), ANYTHING),
}
# Those of benchmark=; the rules of `deepclust.subsets.selectors` say what they mean.
CLASSES: dict[str, Member] = {
    "hierarchy": PLACE,
    "links": setting(None, "how WordNet is read", choices=LINKS),
    "hypernym": setting(None, "which of several parents counts", choices=("first", "last")),
}
BENCHMARK: dict[str, Member] = {
    "name": setting(about="of the benchmark", text=True),
    "rule": setting(about="that selects", choices=RULES),
    "spread": setting(5, "percentiles around the median", above=0, at_most=50),
    "percent": setting(10, "of the classes", above=0, below=50),
    "seed": seed_setting(0, "of what is drawn"),
    "depth": setting(1, "of the hierarchy", at_least=1, whole=True),
    "n_classes": setting(1000, "that are kept", at_least=2, whole=True),
    "accuracies": setting(None, "of a probe", such=_files),
    "relabels": Group("benchmark.relabels", {"train": PLACE, "test": PLACE}),
    **CLASSES,
}
SELECT: dict[str, Member] = {
    "by": setting(None, "what decides", choices=("silhouette",)),
    "reductions": setting(None, "to try", each=True, choices=KINDS),
    "dims": setting(50, "of these", at_least=1, whole=True),
    "n_clusters": setting(None, "to try", each=True, at_least=2, whole=True),
}
# Those of `deepclust extract`; `extract` says what they mean.
EXTRACT: dict[str, Member] = {
    "out": PLACE,
    "features_dir": PLACE,
    "engine": setting("local", "which processes encode", choices=ENGINES),
    "device": setting("auto", "where the encoder runs", text=True),
    "precision": setting("auto", "of the encoder", choices=ENCODING_PRECISIONS),
    "compile": setting(False, "torch.compile", flag=True),
    "dtype": setting("float16", "on disk", choices=DTYPES),
    "batch_size": setting(None, "images at a time", at_least=1, at_most=65536, whole=True),
    "workers": setting(None, "processes that read images", at_least=0, at_most=1024, whole=True),
    "images_per_shard": setting(8192, "a killed run loses the shard it was at", at_least=1, whole=True),
    "overwrite": setting(False, "make features of other settings again", flag=True),
}
# Those of `deepclust finetune` beside `FinetuneSettings`.
FINETUNE: dict[str, Member] = {
    "out": PLACE,
    "precision": setting("auto", "of the training", choices=PRECISIONS),
    "workers": setting(0, "processes that read images", at_least=0, at_most=1024, whole=True),
}
# Those of the linear probe; `linear_probe` says what they mean.
PROBE: dict[str, Member] = {
    "learning_rates": setting(about="of the grid", each=True, above=0),
    "weight_decays": setting(about="of the grid", each=True, at_least=0),
    "max_epochs": setting(100, "epochs", at_least=1, whole=True),
    "batch_size": setting(256, "samples at a time", at_least=1, whole=True),
    "momentum": setting(0.9, "of SGD", at_least=0, below=1),
    "preprocess": setting("none", "of the features", choices=PREPROCESSINGS),
    "precision": setting("auto", "of the products", choices=PROBE_PRECISIONS),
    "at_once": setting(None, "points of the grid trained at once", at_least=1, whole=True),
}
EVALUATE: dict[str, Member] = {
    **dict.fromkeys(("run", "run_dir", "features_dir", "cache_dir", "label_sets", "constraints"), PLACE),
    "n_clusters": N_CLUSTERS,
    **dict.fromkeys(("metrics", "figures"), setting(about="what is measured or drawn", such=_names)),
    "confidence": setting("agreement", "of trained heads", choices=("agreement", "raw")),
    "counts": setting(None, "numbers of clusters", each=True, at_least=2, whole=True),
    "n_draws": setting(50, "of one label per sample", at_least=1, whole=True),
    **CLASSES,
}
# Those of `deepclust report` and `deepclust edit`; `write_report` and `export` say what they mean.
PAGE: dict[str, Member] = {
    **dict.fromkeys(("run", "out", "texts"), PLACE),
    "method": setting(None, "the clusters that are shown first", text=True),
    "map": setting("auto", "how samples get their places", choices=MAPS),
}
REPORT: dict[str, Member] = {**PAGE, "words": PLACE}
EDIT: dict[str, Member] = {
    **PAGE,
    "edits": PLACE,
    "folders": setting("links", "what a cluster's folder holds", choices=FOLDERS),
    "retrain": setting(False, "train heads on the changed clusters, for new samples", flag=True),
}
ASSIGN: dict[str, Member] = dict.fromkeys(("run", "match", "out", "features_dir"), PLACE)
EXPORT: dict[str, Member] = {
    **dict.fromkeys(("run", "out"), PLACE),
    "to": setting("onnx", "the format", choices=("onnx", "safetensors", "torch")),
    "method": setting(None, "whose heads", text=True),
    "head": setting(None, "by number", at_least=0, whole=True),
}
ZERO_SHOT: dict[str, Member] = {
    "stage": setting("all", "of the protocol", text=True),
    "study": setting(None, "whose rule cut the images", choices=STUDIES),
    "folder": setting("runs/zero_shot", "of finished cells", text=True),
    "chosen": PLACE,
    "features_dir": PLACE,
    "workers": setting(1, "processes", at_least=1, at_most=1024, whole=True),
    "retry": setting(False, "make refused cells again", flag=True),
    "silhouette": setting("euclidean", "its distance", choices=SILHOUETTES, optional=True),
    **dict.fromkeys(("encoders", "clusterers", "tuning", "test"), NAMES),
    "encoder_titles": Group("encoder_titles", others=setting(about="of an encoder", text=True)),
    "data": Group("data", others=Group("a data set", settings_of(DataSpec))),
}


def check(command: str, config: Settings) -> None:
    """Check the names, types and ranges of everything that a command line gives.

    Args:
        command: as files in conf/ are called: `train`, `zero_shot` ….
        config: its settings.

    Raises:
        InputError: naming the first that is unknown or out of range, and what it may be.
    """
    schema(command, config).check(config)


def schema(command: str, config: Settings) -> Group:
    """The settings of a command, with those of the losses, baselines and so on that this command line chooses."""
    commands = {
        "train": _train,
        "extract": _extract,
        "finetune": _finetune,
        "evaluate": _evaluate,
        "zero_shot": _zero_shot,
        "report": lambda _: Group("deepclust report", REPORT, needed=needed(REPORT)),
        "assign": _assign,
        "export": lambda _: Group("deepclust export", EXPORT, needed=needed(EXPORT)),
        "edit": lambda _: Group("deepclust edit", EDIT, needed=needed(EDIT)),
    }
    return commands[command](config)


def _train(config: Settings) -> Group:
    members: dict[str, Member] = {
        **dict.fromkeys(("run_dir", "resume", "features_dir"), PLACE),
        **settings_of(Experiment, "seed", "silhouette"),
        "n_clusters": N_CLUSTERS,
        "constraints": PLACE,
        **left_open(Recipe, SHARED),
        "loss": Group("loss", {name: _loss(name) for name in LOSSES}),
        "baselines": Group("baselines", {name: _baseline(name) for name in CLUSTERERS}),
        "data": _data(),
        "reduction": _reduction(),
        "select": Group("select", SELECT, needed=("by",)),
        "neighbors": Group("neighbors", {**settings_of(MiningSettings), "cache_dir": PLACE}),
        "trainer": _trainer(),
        "logger": logger_group(_chosen(config, "logger", "name")),
        "encoder": _encoder(optional=True),
        "benchmark": _benchmark(config),
    }
    own = {"baselines_named": ANYTHING, "n_neighbors_named": ANYTHING}  # no settings: whether somebody gave them
    return Group("deepclust train", {**members, **own}, needed=needed(members))


def _extract(config: Settings) -> Group:
    members = {**EXTRACT, "data": _data(), "encoder": _encoder()}
    return Group("deepclust extract", members, needed=needed(members))


def _finetune(config: Settings) -> Group:
    members = {
        **FINETUNE,
        **settings_of(FinetuneSettings),
        **settings_of(TrainerSettings, "accelerator", "checkpoint_seconds"),
        "data": _data(),
        "encoder": _encoder(),
    }
    return Group("deepclust finetune", members, needed=needed(members))


def _assign(config: Settings) -> Group:
    members: dict[str, Member] = {**ASSIGN, "data": _data(optional=True), "encoder": _encoder(optional=True)}
    return Group("deepclust assign", members, needed=needed(members))


def _evaluate(config: Settings) -> Group:
    members: dict[str, Member] = {
        **EVALUATE,
        **settings_of(Experiment, "seed"),
        "probe": Group("probe", PROBE, needed=needed(PROBE)),
        "data": _data(optional=True),
        "encoder": _encoder(optional=True),
        "benchmark": _benchmark(config),
    }
    return Group("deepclust evaluate", members, needed=needed(members))


def _zero_shot(config: Settings) -> Group:
    sets = Group("search.sets", others=NAMES, optional=True)
    members: dict[str, Member] = {
        **ZERO_SHOT,
        **settings_of(Experiment, "seed"),
        "search": Group("search", {**settings_of(Candidates), "sets": sets}, needed=("sets",)),
    }
    return Group("deepclust zero-shot", members, needed=needed(members))


def needed(members: Mapping[str, Member]) -> tuple[str, ...]:
    """Names that a command line may change, but not take away: conf/ gives all but groups without a choice."""
    return tuple(name for name, one in members.items() if not (isinstance(one, Group) and one.optional))


def left_open(declared: Any, names: Iterable[str]) -> dict[str, Member]:
    """Settings that may be null, which leaves them to each loss, or to the run."""
    open_ones: dict[str, Member] = {}
    for name, one in settings_of(declared, *names).items():
        open_ones[name] = setting(None, **{**one.metadata, "optional": True})
    return open_ones


def _loss(name: str) -> Group:
    own = {**settings_of(LOSSES[name]), **settings_of(Recipe)}
    return Group(f"loss={name}", {key: one for key, one in own.items() if key not in ("n_clusters", "seed")})


def _baseline(name: str) -> Group:
    return Group(f"baseline {name}", settings_of(clusterer_class(name)), optional=True)


def _data(*, optional: bool = False) -> Group:
    members = {**DATA, **left_open(Recipe, SHARED_OF_DATA)}
    return Group("data", members, optional=optional, needed=needed(members))


def _encoder(*, optional: bool = False) -> Group:
    return Group("encoder", ENCODER, optional=optional, needed=() if optional else ("name",))


def _reduction() -> Group:
    own = {**settings_of(Reduction), **left_open(Reduction, ["seed"]), "cache_dir": PLACE}
    return Group("reduction", own, needed=("kind",))


def _trainer() -> Group:
    # Names that are no setting of ours are options of Lightning's Trainer; which of them, `TrainerSettings` says.
    return Group("trainer", settings_of(TrainerSettings), others=ANYTHING, then=TrainerSettings.of)


def _chosen(config: Settings, group: str, key: str) -> Any:
    values = config.get(group)
    return values.get(key) if isinstance(values, Mapping) else None


def _benchmark(config: Settings) -> Group:
    """A benchmark has the options of its rule."""
    rule = _chosen(config, "benchmark", "rule")
    if not isinstance(rule, str) or rule not in RULES:
        return Group("benchmark", BENCHMARK, optional=True, needed=("name", "rule"))
    taken = [one.removesuffix("_K") for one in list(inspect.signature(RULES[rule]).parameters)[2:]]
    members = {key: BENCHMARK[key] for key in ("name", "rule", *taken, *CLASSES)}
    return Group(f"benchmark={_chosen(config, 'benchmark', 'name')}", members, optional=True, needed=("name", "rule"))
