"""What README.md and docs/ tell users to type is there: commands compose, options exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from deepclust.cli.configure import composed
from deepclust.cli.main import COMMANDS
from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.losses import LOSSES
from deepclust.neighbors import Neighbors
from deepclust.report.sample_tables import write_samples
from deepclust.subsets.benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands whose arguments are Hydra's, by the name of their configuration.
HYDRA = {
    "train": "train",
    "evaluate": "evaluate",
    "extract": "extract",
    "finetune": "finetune",
    "zero-shot": "zero_shot",
    "report": "report",
    "edit": "edit",
    "assign": "assign",
    "export": "export",
}


# What stands for something of the reader's own.
PLACEHOLDERS = {"…": "x", "$d": "digits", "$e": "efficientnet_lite0", "$run": "x", "search|apply|report": "search"}


REST = r"(?: [^\n`;]*)?"
OURS = rf"deepclust (?:{'|'.join(COMMANDS)})(?![\w-]){REST}"
COMMAND = re.compile(rf"(?:^|[ `])(?:python +((?:benchmarks/)?\w+\.py{REST})|(?:-m +)?({OURS}))")
# A variable of the shell, in upper case: a placeholder is in lower case.
VARIABLE = re.compile(r"^    ([A-Z])=(\"?)([^\"]*)\2$")


def commands(page: Path) -> list[str]:
    """Everything on a page, in blocks and between backticks, that runs what is ours, without its comment."""
    variables: dict[str, str] = {}
    found = []
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if match := VARIABLE.match(line):
            variables[match[1]] = match[3]
        for command in map("".join, COMMAND.findall(line)):
            for name, value in variables.items():
                command = re.sub(rf"\${name}\b|\${{{name}}}", value, command)
            found.append(" ".join(re.sub(r"\s#.*", "", command).split()))
    return found


# CONTRIBUTING.md speaks of what is not there yet.
TYPED = sorted({(page.name, typed) for page in PAGES for typed in commands(page) if page.name != "CONTRIBUTING.md"})


def split(command: str) -> tuple[str, list[str]]:
    """The script's or the command's name and its arguments, without what stands for further ones."""
    command = re.sub(r"<[^>]*>", "…", command)
    script, *arguments = shlex.split(re.sub(r" \[(--[^\]]*)\]", r" \1", command))
    if script == "deepclust":
        script, *arguments = arguments
    arguments = [word for word in arguments if word not in ("…", "$WHERE")]
    for placeholder, value in PLACEHOLDERS.items():
        arguments = [word.replace(placeholder, value) for word in arguments]
    return script, arguments


def overrides(arguments: list[str]) -> list[str]:
    """Hydra's overrides, the first choice of each that a sweep varies; launchers are packages of their own."""
    words = [
        word for word in arguments if word not in ("-m", "--help", "--cfg", "job") and not word.startswith("hydra")
    ]
    parsed = OverridesParser.create().parse_overrides(words)
    chosen = []
    for override in parsed:
        assert override.input_line is not None
        if override.is_sweep_override():
            chosen.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
        else:
            chosen.append(override.input_line)
    return chosen


@pytest.mark.parametrize(("page", "command"), TYPED)
def test_a_command_of_the_documentation_composes(page, command):
    script, arguments = split(command)
    name = script.removesuffix(".py")
    if name in HYDRA:
        composed(HYDRA[name], overrides(arguments))
        return
    file = ROOT / script if script.endswith(".py") else ROOT / "deepclust" / "cli" / f"{COMMANDS[script][0]}.py"
    source = file.read_text() + (ROOT / "benchmarks" / "tables.py").read_text()
    assert [word for word in arguments if word.startswith("--") and f'"{word}"' not in source] == []


@pytest.fixture(scope="module")
def configs() -> list[dict[str, Any]]:
    """Compositions that hold every setting between them."""
    chosen = ["encoder=default", "reduction=umap", "select=silhouette", "logger=wandb", "baselines=all"]
    chosen.append(f"loss=[{','.join(LOSSES)}]")
    found = [composed("train", [*chosen, f"benchmark={name}"]) for name in BENCHMARKS]
    return [
        *found,
        composed("evaluate", ["run=x"]),
        composed("extract", []),
        composed("finetune", []),
        composed("zero_shot", []),
    ]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "conf" / "train.yaml"], ids=lambda page: page.name)
def test_a_setting_of_the_documentation_exists(page, configs):
    named = set(re.findall(r"`(\w+(?:\.\w+)+)(?:=[^`]*)?`", page.read_text(encoding="utf-8")))
    heads = {head for config in configs for head in config}
    files = (".json", ".npy", ".png", ".md", ".noun")
    settings = {name for name in named if name.split(".")[0] in heads and not name.endswith(files)}
    assert {name for name in settings if not any(has(config, name) for config in configs)} == set()


def has(config: dict[str, Any], name: str) -> bool:
    """Whether the config has the setting, if only as null."""
    *parents, key = name.split(".")
    inner: Any = config
    for parent in parents:
        inner = inner.get(parent) if isinstance(inner, dict) else None
    return isinstance(inner, dict) and key in inner


def anchors(page: Path) -> set[str]:
    """The anchors that the page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_are_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_can_be_reached_from_the_readme():
    seen, open_pages = set(), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        seen.add(page)
        links = re.findall(r"\]\(([\w/.]+\.md)", page.read_text(encoding="utf-8"))
        open_pages += {(page.parent / link).resolve() for link in links} - seen
    assert {page.resolve() for page in PAGES} <= {page.resolve() for page in seen}


def block_after(page: str, words: str) -> str:
    """The first block of Python on a page after some words."""
    _, after = (ROOT / "docs" / page).read_text(encoding="utf-8").split(words, 1)
    return after.split("```python\n", 1)[1].split("```", 1)[0]


def test_clusters_go_into_an_anndata_as_the_page_says(digits):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed: pip install 'deepclust[anndata]'")
    adata = anndata.AnnData(np.zeros((200, 3), np.float32))
    adata.obsm["X_pca"] = np.asarray(digits.features[:200])
    block = block_after("formats.md", "**scanpy**").replace("n_clusters=15", "n_clusters=3, max_epochs=1")
    exec(block, {"adata": adata})
    assert adata.obs["temi"].cat.categories.tolist() == ["0", "1", "2"]
    np.testing.assert_array_equal(adata.obsm["temi_probabilities"].argmax(axis=1), adata.obs["temi"].astype(int))


def test_clusters_go_into_a_fiftyone_dataset_as_the_page_says(monkeypatch, tmp_path):
    """With a stand-in for FiftyOne that knows the three names of the page."""

    class Dataset:
        @staticmethod
        def from_images(paths: list[str]) -> Dataset:
            made.append(Dataset())
            made[0].values = {"filepath": paths}
            return made[0]

        def set_values(self, field: str, values: list[Any]) -> None:
            assert len(values) == len(self.values["filepath"])
            self.values[field] = values

    made: list[Any] = []
    stand_in = SimpleNamespace(Dataset=Dataset, Classification=lambda label: {"label": label})
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)
    monkeypatch.chdir(tmp_path)
    features = FeatureSet.from_arrays(np.eye(3, dtype=np.float32), paths=["a.png", "b.png", "c.png"])
    neighbors = Neighbors(np.array([[1], [0], [0]]), np.array([[0.9], [0.9], [0.1]], np.float32))
    found = Clustering(np.array([0, 0, 1], np.int32), "tsp", 2)
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    write_samples(Path("runs/photos/samples"), features, {"tsp": found}, {"tsp": {1: "cats"}}, neighbors)
    exec(block_after("formats.md", "**FiftyOne**"), {})
    assert made[0].values["filepath"] == ["photos/a.png", "photos/b.png", "photos/c.png"]
    assert [one["label"] for one in made[0].values["cluster"]] == ["cluster 0", "cluster 0", "cats"]
    np.testing.assert_allclose(made[0].values["outlier_score"], [0.1, 0.1, 0.9], atol=1e-6)
