"""How results show themselves in notebooks: a table, a map, the members of a cluster, a page.

The report does the work. It lies at the other end of the road of the data, so it is imported when a method is called:
this is the one file of the house that looks to its right.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from deepclust.clustering import Clustering
    from deepclust.features.feature_set import FeatureSet
    from deepclust.report.contact_sheet import Images
    from deepclust.report.notebook import Members


class NotebookMethods:
    """What a `Clustering` and the estimators share. X is the samples: N × D features, or a FeatureSet, which brings
    the images, texts, ids and labels that it knows of."""

    def of_samples(self, X: Any) -> tuple[Clustering, FeatureSet]:
        """The clusters of X, and X as a FeatureSet."""
        raise NotImplementedError

    def to_frame(self, X: Any, *, texts: Sequence[str] | None = None) -> pandas.DataFrame:
        """A row per sample, with the columns of `samples.parquet` (docs/formats.md) but outliers and duplicates.

        Args:
            X: the N samples; estimators assign others than those they were fitted on, too.
            texts: one per sample; they name the clusters. Default: those of the FeatureSet.

        Raises:
            InputError: if pandas is not installed, X does not fit, or there is not one text per sample.

        Examples:
            >>> from sklearn.datasets import load_digits
            >>> from deepclust import TSP
            >>> X = load_digits().data
            >>> model = TSP(10, max_epochs=2, random_state=0).fit(X)
            >>> model.to_frame(X).columns.tolist()[:5]
            ['row', 'tsp_cluster', 'tsp_name', 'tsp_confidence', 'tsp_top5']
        """
        from deepclust.report.notebook import samples_frame

        return samples_frame(*self.of_samples(X), texts)

    def plot_map(self, X: Any, *, texts: Sequence[str] | None = None, kind: str = "auto", seed: int = 0) -> Figure:
        """The samples in the plane, colored by cluster; beside it by label where X is a FeatureSet with labels.

        Args:
            X: as of `to_frame`.
            texts: one per sample; they name the clusters.
            kind: `umap`, `pca` or `auto`: UMAP where umap-learn is installed and there are at most 10 000 samples.
            seed: of UMAP.

        Returns:
            A matplotlib figure, which notebooks show. `savefig("map.png")` writes it.

        Raises:
            InputError: if X or the texts do not fit, or umap-learn is asked for and missing.

        Examples:
            >>> from sklearn.datasets import load_digits
            >>> from deepclust import TSP
            >>> X = load_digits().data
            >>> model = TSP(10, max_epochs=2, random_state=0).fit(X)
            >>> model.plot_map(X, kind="pca").savefig("map.png")
        """
        from deepclust.report.notebook import map_figure

        return map_figure(*self.of_samples(X), texts, kind, seed)

    def show(
        self,
        cluster: int,
        X: Any,
        *,
        images: Images | None = None,
        texts: Sequence[str] | None = None,
        n: int = 16,
    ) -> Members:
        """The most typical members of a cluster: thumbnails, else texts, else ids or row numbers.

        Typical are those nearest to the center of the cluster, by direction from the mean of all samples.

        Args:
            cluster: its id; -1 for samples in no cluster.
            X: as of `to_frame`.
            images: N paths, or the images as (N, H, W) or (N, H, W, 3) uint8. Default: those of the FeatureSet.
            texts: one per sample. Default: those of the FeatureSet.
            n: members that are shown, at most.

        Returns:
            What notebooks show and `print` prints; `rows` holds the row numbers, `sheet` the thumbnails.

        Raises:
            InputError: if the cluster has no members, or X, images or texts do not fit.

        Examples:
            >>> from sklearn.datasets import load_digits
            >>> from deepclust import TSP
            >>> X = load_digits().data
            >>> model = TSP(10, max_epochs=2, random_state=0).fit(X)
            >>> model.show(0, X, n=3).told == [f"row {row}" for row in model.show(0, X, n=3).rows]
            True
        """
        from deepclust.report.notebook import typical_members

        return typical_members(*self.of_samples(X), cluster, images, texts, n)

    def report(
        self,
        path: str | os.PathLike,
        X: Any,
        *,
        images: Images | None = None,
        texts: Sequence[str] | None = None,
        kind: str = "auto",
        seed: int = 0,
    ) -> Path:
        """Write the page that `deepclust report` writes of a run (docs/report.md), without a run.

        Args:
            path: of the `.html`.
            X, images, texts: as of `show`.
            kind, seed: as of `plot_map`.

        Returns:
            The file.

        Raises:
            InputError: if X, images or texts do not fit.

        Examples:
            >>> from sklearn.datasets import load_digits
            >>> from deepclust import TSP
            >>> X = load_digits().data
            >>> model = TSP(10, max_epochs=2, random_state=0).fit(X)
            >>> model.report("clusters.html", X, kind="pca").name
            'clusters.html'
        """
        from deepclust.report.notebook import write_notebook_page

        return write_notebook_page(path, *self.of_samples(X), images, texts, kind, seed)
