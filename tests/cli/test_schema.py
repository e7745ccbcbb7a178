"""Whatever is outside the schema is refused in one line, whatever is inside runs or is refused: never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deepclust.cli.configure import composed
from deepclust.cli.schema import check, schema
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import ANYTHING, MOST, RANGE, Group

# Every group of settings that has members of its own is there.
COMMAND_LINES = {
    "train": ("data=features", "select=silhouette", "encoder=dino_vitb16", "benchmark=union", "logger=wandb"),
    "extract": ("data=cifar10",),
    "finetune": ("data=cifar10",),
    "evaluate": ("data=features", "encoder=dino_vitb16", "benchmark=coarse_2"),
    "zero_shot": (),
    "assign": ("data=features", "encoder=dino_vitb16"),
    "export": (),
    "report": (),
    "edit": (),
}


def same_draws(n_draws: int) -> settings:
    """The same draws every time: CI finds what a developer finds. They are not made smaller, which takes minutes."""
    return settings(
        max_examples=n_draws,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def configs() -> dict[str, dict[str, Any]]:
    return {command: composed(command, words) for command, words in COMMAND_LINES.items()}


Path = tuple[str, ...]


def leaves(
    group: Group, values: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, setting) of everything that a command line holds or may add."""
    for name in [*group.members, *(name for name in values if name not in group.members)]:
        member = group.members.get(name, group.others)
        if isinstance(member, Group):
            below = values.get(name)
            if isinstance(below, Mapping):
                yield from leaves(member, below, (*above, name))
        elif member is not None and member is not ANYTHING:
            yield (*above, name), member


def put(config: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(dict(config))
    group = changed
    for name in path[:-1]:
        group = group[name]
    group[path[-1]] = value
    return changed


WORDS = st.text("abcxyz,_ é", min_size=1, max_size=6).filter(lambda word: word.strip() and word != "auto")
NUMBERS = st.one_of(st.integers(-(10**12), 10**12), st.floats())
TABLES = st.dictionaries(WORDS, st.floats(), min_size=1, max_size=2)
COMPOUND = TABLES | st.lists(st.lists(NUMBERS), min_size=1, max_size=2)


def fits(rule: Mapping[str, Any], number: Any) -> bool:
    """The ranges once more, in other words than the checked code has them."""
    low, above, high, below = (rule[key] for key in RANGE)
    return (
        np.isfinite(number)
        and (low is None or number >= low)
        and (above is None or number > above)
        and (high is None or number <= high)
        and (below is None or number < below)
        and (not rule["whole"] or (isinstance(number, int) and (high is not None or abs(number) <= rule["most"])))
    )


def outside(rule: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a setting must refuse."""
    choices, ranged = rule["choices"], rule["whole"] or rule["number"] or any(rule[key] is not None for key in RANGE)
    bad = COMPOUND if rule["such"] is None else TABLES
    if not rule["optional"] and rule["such"] is None:
        bad = bad | st.none()
    if rule["flag"]:
        bad = bad | NUMBERS | WORDS
    elif rule["text"]:
        bad = bad | NUMBERS | st.booleans() | st.sampled_from(["", "  ", "a\0b", "a\nb"])
    elif ranged:
        bad = bad | WORDS | st.booleans() | NUMBERS.filter(lambda number: not fits(rule, number))
    elif choices is not None:
        bad = bad | NUMBERS.filter(lambda number: number not in choices) | WORDS | st.booleans()
    if rule["each"]:
        return bad.map(lambda value: [value]) | NUMBERS | WORDS | st.booleans()
    return bad


def inside(rule: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a setting takes, small ones of numbers: what is computed takes its time."""
    low, above, high, below = (rule[key] for key in RANGE)
    if rule["choices"] is not None:
        good = st.sampled_from(rule["choices"])
    elif rule["flag"]:
        good = st.booleans()
    elif rule["whole"]:
        start = 0 if low is None else int(low)
        good = st.integers(start, min(start + 6, MOST if high is None else int(high)))
    else:
        start = low if low is not None else above if above is not None else -2.0
        stop = high if high is not None else below if below is not None else start + 2.0
        good = st.floats(start, stop, exclude_min=above is not None, exclude_max=below is not None, width=32)
    if rule["each"]:
        good = st.lists(good, max_size=2)
    return good | st.none() if rule["optional"] else good


@same_draws(600)
@given(data=st.data())
def test_whatever_is_outside_the_schema_is_refused_in_one_line_that_names_it(data, configs):
    command = data.draw(st.sampled_from(sorted(COMMAND_LINES)))
    config = configs[command]
    path, setting = data.draw(st.sampled_from(list(leaves(schema(command, config), config))))
    value = data.draw(outside(setting.metadata))
    with pytest.raises(InputError) as refused:
        check(command, put(config, path, value))
    assert len(str(refused.value).splitlines()) == 1
    assert path[-1] in str(refused.value)


@same_draws(100)
@given(data=st.data())
def test_names_that_no_group_has_are_refused(data, configs):
    command = data.draw(st.sampled_from(sorted(COMMAND_LINES)))
    places = {path[:-1] for path, _ in leaves(schema(command, configs[command]), configs[command])}
    place = data.draw(
        st.sampled_from(sorted(place for place in places if place not in (("trainer",), ("encoder_titles",))))
    )
    with pytest.raises(InputError, match="has no setting 'nokey'"):
        check(command, put(configs[command], (*place, "nokey"), 1))


def test_what_a_command_line_gives_by_itself_is_inside(configs):
    for command, config in configs.items():
        check(command, config)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, planted: FeatureSet) -> Any:
    folder = tmp_path_factory.mktemp("inside")
    np.save(folder / "X.npy", np.asarray(planted.features)[:90])
    np.save(folder / "y.npy", planted.labels[:90])
    return folder


# Nothing that leaves this process, or takes long: UMAP compiles itself first.
NOT_DRAWN = (
    "strategy", "devices", "num_nodes", "accelerator", "resume", "run_dir", "in_memory", "rule", "n_clusters", "kind",
    "reductions",
)  # fmt: skip


def word(path: Path, value: Any) -> str:
    return f"++{'.'.join(path)}={json.dumps(value, ensure_ascii=False)}"


@same_draws(8)
@given(data=st.data())
def test_whatever_is_inside_the_schema_runs_or_is_refused(data, command, workplace, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("run"))
    loss = data.draw(st.sampled_from(["temi", "scan", "tsp"]))
    baseline = data.draw(st.sampled_from(["kmeans", "kmeans_l2", "agglomerative", "spectral", "hdbscan", "leiden"]))
    base = (
        "data=features", f"data.train={workplace}/X.npy", f"data.train_labels={workplace}/y.npy", "n_clusters=5",
        f"loss={loss}", f"baselines=[{baseline}]", "max_epochs=1", "n_heads=2", "data.batch_size=45", "logger=csv",
        f"neighbors.cache_dir={workplace}/neighbors",
    )  # fmt: skip
    config = composed("train", base)
    drawable = [
        (path, one)
        for path, one in leaves(schema("train", config), config)
        if not (one.metadata["text"] or one.metadata["such"] or path[-1] in NOT_DRAWN)
    ]
    drawn = data.draw(st.lists(st.sampled_from(drawable), min_size=2, max_size=6, unique_by=lambda one: one[0]))
    words = [word(path, data.draw(inside(one.metadata))) for path, one in drawn]
    outcome = command("train", *base, *words)
    assert outcome.code in (0, 2), words
    if outcome.code == 2:
        assert outcome.error_line.startswith("error: "), words


@same_draws(8)
@given(data=st.data())
def test_a_command_refuses_what_is_outside_with_exit_code_two(data, command, configs):
    name = data.draw(st.sampled_from(sorted(COMMAND_LINES)))
    path, setting = data.draw(st.sampled_from(list(leaves(schema(name, configs[name]), configs[name]))))
    value = data.draw(outside(setting.metadata).filter(lambda value: "\\u0000" not in json.dumps(value)))
    outcome = command(name.replace("_", "-"), *COMMAND_LINES[name], word(path, value))
    assert outcome.code == 2
    assert outcome.error_line.startswith("error: ")
