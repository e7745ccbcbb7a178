"""The zero-shot protocol of Lowe et al. 2023: clusterers tuned on some data sets, frozen, and applied to others.

`protocol` says what is searched in which order, `data` which rows take part. `cells` makes and keeps one cell of the
matrix, `runner` makes many of them. `tuning` and `apply` are the two stages; the tables and figures are
`deepclust.report.zero_shot_tables` and `zero_shot_figures`.
"""

from deepclust.zero_shot.apply import apply_choices, read_overviews, read_results
from deepclust.zero_shot.data import RAW, DataSpec, data_specs, load_data
from deepclust.zero_shot.protocol import PROTOCOL_CLUSTERERS, Candidates
from deepclust.zero_shot.runner import Runner
from deepclust.zero_shot.tuning import Search, read_choices

__all__ = [
    "PROTOCOL_CLUSTERERS",
    "RAW",
    "Candidates",
    "DataSpec",
    "Runner",
    "Search",
    "apply_choices",
    "data_specs",
    "load_data",
    "read_choices",
    "read_overviews",
    "read_results",
]
