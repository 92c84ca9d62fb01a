"""What embeddings hold: the accuracy of nearest neighbours, and a map of them on paper."""

import warnings
from importlib.util import find_spec

import numpy as np

from minidl.errors import require


def knn_accuracy(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    k: int = 20,
    *,
    temperature: float | None = None,
) -> float:
    """Share of test embeddings whose k nearest in training, by cosine, vote for their label.

    train_x (N, D), test_x (M, D), labels (N,) and (M,) from 0. A vote counts 1, or
    exp(cosine / temperature) (Wu et al. 2018, arXiv 1805.01978: 0.07). Of equally near neighbours
    the first counts; ties of votes go to the lower class. A zero vector is at cosine 0 from all.
    Raises ShapeError: shapes do not fit, k outside 1 … N.
    """
    fits = train_x.shape[1:] == test_x.shape[1:] and len(train_x) == len(train_y)
    fits = fits and train_x.ndim == 2 and len(test_x) == len(test_y) > 0
    rule = "embeddings must be (N, D) and (M, D), labels (N,) and (M,)"
    require(fits, "knn_accuracy", rule, train_x=train_x, test_x=test_x)
    require(1 <= k <= len(train_x), "knn_accuracy", f"k must lie in 1 … {len(train_x)}", k=k)
    known, right = _unit(train_x), 0
    for lo in range(0, len(test_x), 500):  # what the table of cosines takes is bounded
        cosine = _unit(test_x[lo : lo + 500]) @ known.T
        near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        votes = np.ones(near.shape)
        if temperature is not None:
            votes = np.exp(np.take_along_axis(cosine, near, 1) / temperature)
        tally = np.zeros((len(near), int(train_y.max()) + 1))
        np.add.at(tally, (np.arange(len(near))[:, None], train_y[near]), votes)
        right += int((tally.argmax(1) == test_y[lo : lo + 500]).sum())
    return right / len(test_y)


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64."""
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def maps2d(x: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Embeddings x (N, D) as points (N, 2), by each method that is at hand: its name -> points.

    "t-SNE" (van der Maaten and Hinton 2008) by scikit-learn where it is installed, else "PCA", the
    two first principal components, each pointing to where its largest loading is positive; and
    "UMAP" (McInnes et al. 2018, arXiv 1802.03426) of 4 points or more by umap-learn where that is
    installed: its first use compiles for a minute. Raises ShapeError: x is not (N, D) with N and D
    at least 2.
    """
    ok = x.ndim == 2 and min(x.shape) >= 2
    require(ok, "maps2d", "x must be (N, D), both at least 2", x=x)
    maps = {"t-SNE": _t_sne(x, seed)} if find_spec("sklearn") else {"PCA": _principal(x)}
    if find_spec("umap") and len(x) >= 4:
        maps["UMAP"] = _umap(x, seed)
    return maps


def _t_sne(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    perplexity = min(30.0, (len(x) - 1) / 3)
    method = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    with threadpool_limits(1):  # its threads spin, and here there are others
        return method.fit_transform(x.astype(np.float32))


def _principal(x: np.ndarray) -> np.ndarray:
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
    return centred @ (axes * signs).T


def _umap(x: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # of its part that needs TensorFlow
        from umap import UMAP
    near = min(15, len(x) - 1)  # its default, where there are so many
    method = UMAP(n_neighbors=near, init="pca", random_state=seed, n_jobs=1)
    return method.fit_transform(x.astype(np.float32))


def lacking() -> str:
    """How to get the maps that no package makes here; nothing where all are made."""
    packages = {"t-SNE": ("sklearn", "'minidl[report]'"), "UMAP": ("umap", "umap-learn")}
    return "".join(f" For {name}: pip install {fix}." for name, (package, fix) in packages.items()
                   if not find_spec(package))  # fmt: skip
