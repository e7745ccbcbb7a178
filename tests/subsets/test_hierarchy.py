"""Hierarchies from every source, against trees small enough to work out by hand, and WordNet's against known counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepclust.features.idx import CLASS_NAMES
from deepclust.runtime.errors import InputError
from deepclust.subsets.counts import PAPER_COUNTS, imagenet21k_synsets, link_rules
from deepclust.subsets.find_hierarchy import PACKAGED, find_hierarchy
from deepclust.subsets.hierarchy import (
    csv_hierarchy,
    hierarchy_of_parents,
    tree_file_hierarchy,
    wordnet_hierarchy,
)
from deepclust.subsets.selectors import Classes, coarse
from deepclust.subsets.wordnet import WORDNET_VARIABLE, read_wordnet, wordnet_file

# animal 0 > dog 1 > terrier 2, poodle 3; animal 0 > cat 4; chair 5, which stands alone.
NAMES = ("animal", "dog", "terrier", "poodle", "cat", "chair")
TREES = [[0], [1, 0], [2, 1, 0], [3, 1, 0], [4, 0], [5]]


@pytest.fixture
def tree_file(tmp_path):
    """A file of the form that ImageNet-21K's authors published."""
    path = tmp_path / "tree.pth"
    descriptions = {name: f"{name}, a {name}" for name in NAMES}
    torch.save({"class_tree_list": TREES, "class_description": descriptions, "class_list": np.array(NAMES)}, path)
    return path


def has_wordnet() -> bool:
    try:
        wordnet_file()
    except InputError:
        return False
    return True


needs_wordnet = pytest.mark.skipif(not has_wordnet(), reason="WordNet 3.0 is not installed")


def test_a_tree_file_gives_what_the_tree_says(tree_file):
    tree = tree_file_hierarchy(tree_file)
    assert tree.names == NAMES
    assert tree.lemmas[1] == ("dog", "a dog")
    assert tree.parents_M.tolist() == [-1, 0, 1, 1, 0, -1]
    assert tree.depths_M.tolist() == [1, 2, 3, 3, 2, 1]
    assert tree.leaves_M.tolist() == [False, False, True, True, True, True]
    assert [found.tolist() for found in tree.children] == [[1, 4], [2, 3], [], [], [], []]
    assert tree.level(2).tolist() == [1, 4]


def test_coarse_stops_at_the_depth_and_leaves_what_is_above_it(tree_file):
    tree = tree_file_hierarchy(tree_file)
    assert tree.coarse(1).tolist() == [0, 0, 0, 0, 0, 5]
    assert tree.coarse(2).tolist() == [0, 1, 1, 1, 4, 5]
    assert tree.coarse(3).tolist() == list(range(6))
    with pytest.raises(InputError, match="roots have depth 1"):
        tree.coarse(0)


def test_a_tree_file_without_a_list_takes_its_names_from_the_descriptions(tmp_path):
    torch.save({"class_tree_list": TREES, "class_description": dict.fromkeys(NAMES, "x")}, tmp_path / "t.pth")
    assert tree_file_hierarchy(tmp_path / "t.pth").names == NAMES


class _Malicious:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"class_tree_list": TREES}, "must hold class_tree_list and class_description"),
        ({"class_tree_list": TREES[:5], "class_description": dict.fromkeys(NAMES)}, "names 6 classes"),
        ({"class_tree_list": [[0], [0, 1]], "class_description": {"a": "", "b": ""}}, r"class_tree_list\[1\]"),
        ({"class_tree_list": [[0], [1, 7]], "class_description": {"a": "", "b": ""}}, r"class_tree_list\[1\]"),
        ({"class_tree_list": _Malicious(), "class_description": {}}, "more than plain values"),
    ],
)
def test_a_tree_file_that_is_none_is_refused(content, message, tmp_path, capsys):
    torch.save(content, tmp_path / "t.pth")
    with pytest.raises(InputError, match=message):
        tree_file_hierarchy(tmp_path / "t.pth")
    assert "executed" not in capsys.readouterr().out


def test_a_table_gives_the_same_tree_whatever_the_order_of_its_lines(tmp_path):
    links = ["terrier,dog", "chair,", "cat,animal", "dog,animal", "poodle,dog"]
    chains = []
    for order in (links, links[::-1]):
        (tmp_path / "t.csv").write_text("child,parent\n# mine\n\n" + "\n".join(order) + "\n")
        tree = csv_hierarchy(tmp_path / "t.csv")
        chains.append({tree.names[i]: [tree.names[up] for up in above] for i, above in enumerate(tree.ancestors)})
    assert chains[0] == chains[1]
    assert chains[0]["terrier"] == ["dog", "animal"]
    assert chains[0]["chair"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\nb,a\n", "own ancestor"), ("a,b,c\n", "line 1 has 3 fields"), ("child,parent\n", "holds no links")],
)
def test_a_table_that_is_no_tree_is_refused(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        csv_hierarchy(tmp_path / "t.csv")


def test_classes_are_found_by_name_or_by_number(tmp_path):
    tree = hierarchy_of_parents(NAMES, [-1, 0, 1, 1, 0, -1], "test")
    assert tree.nodes_of(["cat", "poodle"]).tolist() == [4, 3]
    (tmp_path / "t.csv").write_text("0,even\n2,even\n1,odd\n")
    numbered = csv_hierarchy(tmp_path / "t.csv")
    assert [numbered.names[node] for node in numbered.nodes_of(["zero", "one", "two"])] == ["0", "1", "2"]
    with pytest.raises(InputError, match=r"1 of 2 classes are not in the hierarchy test \(first: 'cow'\)"):
        tree.nodes_of(["cat", "cow"])


def test_numbers_that_are_names_are_not_taken_for_places(tmp_path):
    # What coarse labels over a numbered table are called: two nodes of it, neither of them class 0 or 1.
    (tmp_path / "t.csv").write_text("0,100\n1,100\n2,\n")
    tree = csv_hierarchy(tmp_path / "t.csv")
    assert [tree.names[node] for node in tree.nodes_of(["100", "2"])] == ["100", "2"]


def test_the_classes_above_are_ancestors_that_are_classes_themselves_nearest_first():
    names = ["organism", "person", "musician", "guitarist", "chair"]
    tree = hierarchy_of_parents(names, [-1, 0, 1, 2, -1], "test")
    assert tree.classes_above(["person", "guitarist", "musician", "chair"]) == [[], [2, 0], [0], []]


def test_the_packaged_hierarchy_knows_fashion_mnists_classes():
    tree = find_hierarchy(None, CLASS_NAMES, "fashion_mnist")
    nodes = tree.nodes_of(CLASS_NAMES)
    coarse = {CLASS_NAMES[i]: tree.names[node] for i, node in enumerate(tree.coarse(1)[nodes])}
    assert coarse["Sneaker"] == coarse["Sandal"] == "footwear"
    assert coarse["Bag"] == "Bag"
    assert len(set(coarse.values())) == 5
    assert PACKAGED["fashion_mnist"].is_file()


def test_a_data_set_without_a_hierarchy_is_told_how_to_give_one():
    with pytest.raises(InputError, match=r"benchmark\.hierarchy=FILE"):
        find_hierarchy(None, ["0", "1"], "digits")


# --- WordNet ---------------------------------------------------------------------------------------------------------

# Two parents: `spaniel` is a kind of `pet` (listed first) and of `dog`, which is a kind of `animal` by way of `canine`.
SMALL = {
    "00000001": ("animal", [], ["00000002"]),
    "00000002": ("canine", ["00000001"], ["00000003"]),
    "00000003": ("dog", ["00000002"], ["00000005"]),
    "00000004": ("pet", [], ["00000005"]),
    "00000005": ("spaniel", ["00000004", "00000003"], []),
    "00000006": ("rex", [], []),
}


@pytest.fixture
def small_wordnet(tmp_path):
    lines = ["  1 This software and database is being provided to you\n"]
    for offset, (word, up, down) in SMALL.items():
        links = [("@", other) for other in up] + [("~", other) for other in down]
        if word == "dog":
            links.append(("~i", "00000006"))
        text = "".join(f" {symbol} {other} n 0000" for symbol, other in links)
        lines.append(f"{offset} 05 n 02 {word} 0 my_{word} 0 {len(links):03d}{text} | a gloss \n")
    (tmp_path / "data.noun").write_text("".join(lines))
    return tmp_path


def test_wordnets_file_is_read(small_wordnet):
    synsets = read_wordnet(small_wordnet)
    assert set(synsets) == {"n" + offset for offset in SMALL}
    assert synsets["n00000005"].hypernyms == ("n00000004", "n00000003")
    assert synsets["n00000005"].lemmas == ("spaniel", "my spaniel")
    assert synsets["n00000003"].has_hyponym
    assert not synsets["n00000005"].has_hyponym


def test_of_several_hypernyms_the_asked_one_counts_and_links_may_skip_what_is_no_class(small_wordnet):
    synsets = read_wordnet(small_wordnet)
    classes = ["n00000001", "n00000003", "n00000004", "n00000005"]

    def parents(**options):
        return wordnet_hierarchy(classes, synsets, **options).parents_M.tolist()

    assert parents(links="direct", hypernym="first") == [-1, -1, -1, 2]
    assert parents(links="direct", hypernym="last") == [-1, -1, -1, 1]
    assert parents(links="nearest", hypernym="last") == [-1, 0, -1, 1]
    # Of two hypernyms only one is a class: that one counts, whichever is asked for.
    assert wordnet_hierarchy(classes[1::2], synsets, hypernym="first").parents_M.tolist() == [-1, 0]
    leaves = wordnet_hierarchy(["n00000003", "n00000006"], synsets)
    assert leaves.source_leaf_M.tolist() == [False, True]
    assert leaves.leaves_M.tolist() == [True, True]


def test_wordnet_missing_or_broken_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv(WORDNET_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"no WordNet 3.0 .* wordnet-base"):
        read_wordnet()
    (tmp_path / "data.noun").write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1"):
        read_wordnet(tmp_path)


def test_a_name_that_is_no_synset_is_refused(small_wordnet):
    with pytest.raises(InputError, match=r"1 of 2 classes are no noun synsets .*'n00000009'"):
        wordnet_hierarchy(["n00000001", "n00000009"], read_wordnet(small_wordnet))


@needs_wordnet
def test_imagenet21k_over_wordnet_has_the_counts_that_the_docs_show():
    synsets = imagenet21k_synsets()
    assert len(synsets) == 10_450
    direct_last = next(row for row in link_rules(synsets) if (row["links"], row["hypernym"]) == ("direct", "last"))
    assert abs(direct_last["wordnet_leaf"] - 7353) <= 1  # the paper's WordNet leaf
    assert [direct_last[f"d{d}"] for d in range(1, 9)] == [2622, 4587, 6509, 8296, 9356, 10015, 10279, 10376]
    assert direct_last["tree_leaf"] == 8186
    assert direct_last["levels"] == 11


@needs_wordnet
def test_the_authors_example_of_a_branch_is_wordnets():
    # Published as an example of class_tree_list: [10, 9, 66, 65, 144], piaffe up to sport.
    for tree in (wordnet_hierarchy(imagenet21k_synsets()), find_hierarchy(None, imagenet21k_synsets())):
        assert [10, *tree.ancestors[10]] == [10, 9, 66, 65, 144]


# --- the tree of ImageNet-21K's authors, and the paper's coarse classes -----------------------------------------------


@needs_wordnet
def test_the_default_reading_of_wordnet_has_every_class_count_of_the_paper():
    tree = find_hierarchy(None, imagenet21k_synsets())
    # Adaloglou et al. 2024, table 5, d = 1 … 8, and table 2, ImageNet21K leaf.
    published = [3987, 5086, 6772, 8386, 9429, 9997, 10_241, 10_351]
    assert [len(set(tree.coarse_names(depth))) for depth in range(1, 9)] == published
    assert int(tree.leaves_M.sum()) == 8153
    assert [PAPER_COUNTS[f"coarse_{depth}"][0] for depth in range(1, 9)] == published
    assert len(set(tree.coarse_names(9))) == 10_424  # section 4.2 has d = 9, no table does


# animal 1 > canine 2 > dog 3 > spaniel 5 > toy 7, and pet 4 > spaniel 5; canine is no class. The list names pet last.
IS_A = "n00000001 n00000002\nn00000002 n00000003\nn00000003 n00000005\nn00000004 n00000005\nn00000005 n00000007\n"
LISTED = ["n00000001", "n00000003", "n00000004", "n00000005", "n00000007"]


def test_in_the_authors_tree_the_last_line_counts_and_what_is_no_class_is_passed_over(tmp_path):
    (tmp_path / "is_a.txt").write_text(IS_A)
    tree = find_hierarchy(tmp_path / "is_a.txt", LISTED)
    assert tree.parents_M.tolist() == [-1, 0, -1, 2, 3]  # dog below animal, spaniel below pet
    (tmp_path / "is_a.txt").write_text(IS_A + "n00000003 n00000005\n")
    assert find_hierarchy(tmp_path / "is_a.txt", LISTED).parents_M.tolist() == [-1, 0, -1, 1, 3]


def test_a_coarse_class_is_the_hypernym_once_be_it_a_class_or_not(tmp_path):
    (tmp_path / "is_a.txt").write_text(IS_A + "n00000003 n00000005\n")
    classes = Classes(LISTED, np.ones(5, int), lambda: find_hierarchy(tmp_path / "is_a.txt", LISTED))
    one = coarse("coarse_1", classes, 1)
    # Depths 0, 1, 0, 2, 3: the spaniel becomes a dog, the toy a spaniel, one step each, and the dog stays.
    assert [one.class_names[new] for new in one.new_class_K] == [*LISTED[:3], "n00000003", "n00000005"]
    # Without the dog the spaniel is at depth 1 and its hypernym, the dog, is no class.
    rest = [LISTED[0], *LISTED[2:]]
    without = Classes(rest, np.ones(4, int), lambda: find_hierarchy(tmp_path / "is_a.txt", rest))
    named = coarse("coarse_1", without, 1)
    assert [named.class_names[new] for new in named.new_class_K] == [*rest[:3], "n00000005"]
    deep = hierarchy_of_parents(rest, [-1, -1, 0, 2], "test", hypernyms=lambda: [None, None, "n00000003", "n00000005"])
    assert deep.coarse_names(1)[3] == "n00000005"


def test_the_authors_tree_file_asks_wordnet_for_hypernyms_when_coarse_classes_are_asked_for(
    tmp_path, monkeypatch, small_wordnet
):
    names = ["n00000001", "n00000003", "n00000005"]
    trees = [[0], [1, 0], [2, 1, 0]]
    path = tmp_path / "tree.pth"
    torch.save({"class_tree_list": trees, "class_description": dict.fromkeys(names, "x"), "class_list": names}, path)
    monkeypatch.setenv(WORDNET_VARIABLE, str(tmp_path / "nowhere"))
    tree = find_hierarchy(path, names)
    assert tree.leaves_M.tolist() == [False, False, True]  # needs no WordNet
    with pytest.raises(InputError, match=r"no WordNet 3.0 .* wordnet-base"):
        tree.coarse_names(1)
    monkeypatch.setenv(WORDNET_VARIABLE, str(small_wordnet))
    assert tree.coarse_names(1) == ["n00000001", "n00000003", "n00000003"]


@pytest.mark.parametrize(("text", "message"), [("n1 n2 n3\n", "line 1 has 3 words"), ("\n", "holds no links")])
def test_what_is_no_is_a_list_is_refused(text, message, tmp_path):
    (tmp_path / "is_a.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        find_hierarchy(tmp_path / "is_a.txt", LISTED)
    with pytest.raises(InputError, match="no such file"):
        find_hierarchy(tmp_path / "nowhere.txt", LISTED)
