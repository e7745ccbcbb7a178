"""WordNet 3.0's nouns, read from its own `data.noun`: lemmas and hypernyms of every synset.

The file comes with Debian's `wordnet-base` and with nltk's corpus; no package is needed to read it (`wndb(5WN)` is its
format). A synset is named as ImageNet names it, `n` and the eight digits of its offset, which are those of 3.0 alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepclust.runtime.errors import InputError

WORDNET_VARIABLE = "DEEPCLUST_WORDNET"
DATA_FILE = "data.noun"
REMEDY = (
    "install it (Debian: wordnet-base; Python: nltk.download('wordnet')), or name the folder that holds "
    f"{DATA_FILE} by {WORDNET_VARIABLE}"
)


@dataclass(frozen=True)
class Synset:
    """One noun sense.

    Attributes:
        lemmas: its synonyms in WordNet's order, with spaces.
        hypernyms: the synsets above it, `@` and `@i` links in the order of the file.
        has_hyponym: whether some kind of it is in WordNet (`~`; mere instances, `~i`, are no kinds).
    """

    lemmas: tuple[str, ...]
    hypernyms: tuple[str, ...]
    has_hyponym: bool


def read_wordnet(path: str | os.PathLike | None = None) -> Mapping[str, Synset]:
    """Every noun synset by its name.

    Args:
        path: `data.noun` or the folder that holds it; None looks at `$DEEPCLUST_WORDNET`, then where Debian and nltk
            put it.

    Raises:
        InputError: if there is no such file, or it is not of WordNet's format.
    """
    file = wordnet_file(path)
    synsets = {}
    with open(file, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.startswith("  "):  # the license
                continue
            try:
                name, synset = _parsed(line)
            except (ValueError, IndexError):
                raise InputError(f"{file} line {number} is no line of WordNet's {DATA_FILE}: {REMEDY}") from None
            synsets[name] = synset
    if not synsets:
        raise InputError(f"{file} holds no synsets: {REMEDY}")
    return synsets


def wordnet_file(path: str | os.PathLike | None = None) -> Path:
    """The `data.noun` to read.

    Raises:
        InputError: if there is none.
    """
    asked = path if path is not None else os.environ.get(WORDNET_VARIABLE)
    places = [Path(asked).expanduser()] if asked else _usual_places()
    for place in places:
        file = place / DATA_FILE if place.is_dir() else place
        if file.is_file():
            return file
    where = str(places[0]) if asked else "any usual place"
    raise InputError(f"no WordNet 3.0 ({DATA_FILE}) in {where}: {REMEDY}")


def _usual_places() -> list[Path]:
    roots = [Path(root) for root in os.environ.get("NLTK_DATA", "").split(os.pathsep) if root]
    roots += [Path.home() / "nltk_data", Path("/usr/share/nltk_data"), Path("/usr/local/share/nltk_data")]
    return [Path("/usr/share/wordnet"), *(root / "corpora" / "wordnet" for root in roots)]


def _parsed(line: str) -> tuple[str, Synset]:
    """`offset file type w_cnt (word id)… p_cnt (symbol offset pos source/target)… | gloss`; w_cnt is hexadecimal."""
    fields = line.split("|", 1)[0].split()
    n_words = int(fields[3], 16)
    words = fields[4 : 4 + 2 * n_words : 2]
    first = 5 + 2 * n_words
    n_links = int(fields[first - 1])
    links = [(fields[at], "n" + fields[at + 1], fields[at + 2]) for at in range(first, first + 4 * n_links, 4)]
    return "n" + fields[0], Synset(
        tuple(word.replace("_", " ") for word in words),
        tuple(name for symbol, name, kind in links if symbol in ("@", "@i") and kind == "n"),
        any(symbol == "~" and kind == "n" for symbol, _, kind in links),
    )


def check_synsets(names: Sequence[str], wordnet: Mapping[str, Synset]) -> None:
    """Raises InputError unless every name is a synset."""
    unknown = [name for name in names if name not in wordnet]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(names)} classes are no noun synsets of WordNet 3.0 (first: '{unknown[0]}'): "
            "classes are named n########, or give a hierarchy of your own as a child,parent CSV"
        )
