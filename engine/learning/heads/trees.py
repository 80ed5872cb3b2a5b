"""A forest of extremely randomised trees (Geurts, Ernst, Wehenkel, Mach. Learn. 63, 3, 2006), kept as plain arrays.

scikit-learn grows the trees; what it predicts is predicted here to the last bit, from tensors that need no pickle.

At 10 to 100 labels trees are as good as Gaussian processes, and err elsewhere: the mean of both is better than either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.learning.heads.head_tensors import HeadTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.tree._tree import Tree

    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.networks.graph_data import Crystals

_TREES = 50
"""Of the forest that scores pools."""
_FOLD_TREES = 30
"""Of each forest that leaves a fold out, whose errors decide the weight in the mean."""
_MAX_FEATURES = 0.5
"""Share of the columns tried at each split."""
BLOCK = 2048
"""Rows that go down a tree together."""
_FILE = "trees.safetensors"


@dataclass(frozen=True, eq=False)
class Trees:
    """A forest that stands beside Gaussian processes.

    It knows all labels; forests that did not know those of a fold gave the held-out estimates.
    """

    kind: ClassVar[str] = "trees"
    forest: Forest

    @classmethod
    def fit(
        cls,
        keys: Sequence[str],
        embeddings: NDArray[np.float32],
        values: NDArray[np.float64],
        folds: NDArray[np.int64],
        seed: int,
    ) -> tuple[Trees, NDArray[np.float64]]:
        """Fit on n crystals (embeddings n x d), with the estimate (n) of each by a forest without its fold.

        The same whatever the order of the crystals, since trees are grown on them in the order of their ``keys``.
        """
        rows = np.argsort(keys)
        x, y, parts = embeddings[rows], values[rows], folds[rows]
        held_out = np.empty(len(values))
        for k in np.unique(folds):
            held = parts == k
            forest = Forest.fit(x[~held], y[~held], seed * 1000 + int(k), _FOLD_TREES)
            held_out[rows[held]] = forest.predict(x[held])
        return cls(Forest.fit(x, y, seed, _TREES)), held_out

    def estimate(self, crystals: Crystals) -> NDArray[np.float64]:
        """Estimate of N crystals by their embeddings (N x d)."""
        return self.forest.predict(crystals.embeddings)

    def to_files(self) -> dict[str, Mapping[str, Tensor]]:
        """Tensors by file name."""
        return {_FILE: self.forest.to_tensors()}

    @classmethod
    def from_files(cls, files: Mapping[str, Mapping[str, Tensor]], backbone: AnyBackbone) -> Trees | None:
        """Inverse of :meth:`to_files`; ``None`` if there is no such file."""
        return cls(Forest.from_tensors(files[_FILE])) if _FILE in files else None


@dataclass(frozen=True, eq=False)
class Forest(HeadTensors):
    """T trees of m nodes together; level by level, the right child of a node right behind the left one."""

    left: Tensor
    """Left child of each node (m), by its number within the tree; a leaf is its own."""
    feature: Tensor
    """Column that each node compares, m."""
    threshold: Tensor
    """Largest value that goes left, m; infinite at a leaf."""
    value: Tensor
    """Mean of the labels at each node, m."""
    nodes: Tensor
    depth: Tensor
    """Number of nodes and depth of each tree, T."""

    @classmethod
    def fit(cls, columns: NDArray[np.float32], values: NDArray[np.float64], seed: int, n_trees: int) -> Forest:
        """Grow ``n_trees`` on n rows (n x d) and their values (n), each on all rows, down to single ones."""
        from sklearn.ensemble import ExtraTreesRegressor

        grown = ExtraTreesRegressor(n_trees, max_features=_MAX_FEATURES, random_state=seed % 2**32).fit(columns, values)
        return cls.of([tree.tree_ for tree in grown.estimators_])

    @classmethod
    def of(cls, trees: list[Tree]) -> Forest:
        """Copy what scikit-learn has grown."""
        parts = [_nodes(tree) for tree in trees]
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        nodes, depth = [t.node_count for t in trees], [t.max_depth for t in trees]
        return cls(**tensors, nodes=torch.tensor(nodes), depth=torch.tensor(depth))

    def predict(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean of the trees at N rows (N x d), in units of the values."""
        columns = np.asarray(columns, dtype=np.float32)
        total = np.zeros(len(columns))
        for start in range(0, len(columns), BLOCK):
            block = columns[start : start + BLOCK]
            flat, rows = np.ascontiguousarray(block.T).ravel(), np.arange(len(block))
            for tree in self._trees:
                node, column = np.zeros(len(block), dtype=np.intp), tree.feature * len(block)
                for _ in range(tree.depth):
                    goes_right = flat.take(column.take(node) + rows) > tree.threshold.take(node)
                    node = tree.left.take(node) + goes_right
                total[start : start + BLOCK] += tree.value.take(node)
        return total / len(self._trees)

    @cached_property
    def _trees(self) -> list[_Arrays]:
        # copies: a tensor that is sent to another process moves to shared memory and leaves its views behind
        stops = self.nodes.cumsum(0).tolist()
        starts = [0, *stops[:-1]]
        left, feature, threshold, value = (t.numpy() for t in (self.left, self.feature, self.threshold, self.value))
        return [
            _Arrays(
                left[a:b].astype(np.intp), feature[a:b].astype(np.intp), threshold[a:b].copy(), value[a:b].copy(), depth
            )
            for a, b, depth in zip(starts, stops, self.depth.tolist(), strict=True)
        ]


class _Arrays(NamedTuple):
    """One tree, as :class:`Forest` has them."""

    left: NDArray[np.intp]
    feature: NDArray[np.intp]
    threshold: NDArray[np.float32]
    value: NDArray[np.float64]
    depth: int


def _nodes(tree: Tree) -> dict[str, Tensor]:
    """Nodes of one tree, level by level."""
    order = np.concatenate(list(_levels(tree)))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    leaf = tree.children_left[order] < 0
    left = np.where(leaf, np.arange(len(order)), place[tree.children_left[order]])
    return {
        "left": torch.from_numpy(left.astype(np.int32)),
        "feature": torch.from_numpy(np.where(leaf, 0, tree.feature[order]).astype(np.int32)),
        "threshold": torch.from_numpy(np.where(leaf, np.float32(np.inf), _rounded_down(tree.threshold[order]))),
        "value": torch.from_numpy(tree.value[order, 0, 0].copy()),
    }


def _levels(tree: Tree) -> Iterator[NDArray[np.intp]]:
    """Nodes of each level, children side by side."""
    level = np.zeros(1, dtype=np.intp)
    while len(level):
        yield level
        inner = level[tree.children_left[level] >= 0]
        level = np.stack([tree.children_left[inner], tree.children_right[inner]], axis=1).ravel()


def _rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Largest number of single precision that is not above: to a column, which is one, the threshold is the same."""
    nearest = threshold.astype(np.float32)
    return np.where(nearest > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest)
