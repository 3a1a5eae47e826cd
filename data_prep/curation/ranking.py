"""Ranking of all scenes by an SVM on features, trained on labelled scenes (scikit-learn).

arXiv 2311.06214 selected its 10,000 objects with a support vector machine on CLIP's image features of renders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..manifests.id_lists import BAD, GOOD, RankedScene
from .feature_store import Features

LEAST = 5  # good ones and bad ones: fewer cannot be cross-validated
FOLDS = 5
AT_ONCE = 8192  # scenes scored together
SEED = 0  # of the shuffle before folds are cut

Array = np.ndarray


@dataclass(frozen=True)
class RankingConfidence:
    """Accuracy of the SVM on labelled scenes, by cross-validation."""

    good: int
    bad: int
    folds: int
    accuracy: float
    balanced: float  # the mean of the accuracies among the good and among the bad
    area: float  # under the ROC curve: how often a good one is placed before a bad one

    @property
    def guess(self) -> float:
        """The accuracy of always predicting the more frequent label."""
        return max(self.good, self.bad) / (self.good + self.bad)

    def sentence(self) -> str:
        """One line for the terminal: numbers of labels, accuracies in percent, and the area under the ROC curve."""
        return (
            f"{self.good + self.bad} labels ({self.good} good, {self.bad} bad), {self.folds}-fold cross-validation: "
            f"accuracy {self.accuracy:.1%} (always the more frequent: {self.guess:.1%}), balanced {self.balanced:.1%}, "
            f"a good one before a bad one {self.area:.1%}"
        )


def rank(
    features: Features, labels: Mapping[str, str], *, softness: float = 1.0
) -> tuple[list[RankedScene], RankingConfidence]:
    """Rank every scene, best first.

    Args:
        features: Features of all scenes.
        labels: "good" or "bad" by id; others are ignored.
        softness: The SVM's C: a larger one fits single labels more closely.

    Returns:
        The ranking and its accuracy by cross-validation.

    Raises:
        ValueError: If there are too few labels, or scenes with labels but without features.
    """
    row = {name: k for k, name in enumerate(features.ids)}
    rows, truth = _labelled_rows(row, labels)
    shown = features.vectors[rows].float().numpy()
    confidence = _confidence(shown, truth, softness)
    machine = _fitted(shown, truth, softness)
    scores = np.concatenate([_scores(machine, part.float().numpy()) for part in features.vectors.split(AT_ONCE)])
    order = sorted(range(len(scores)), key=lambda k: (-scores[k], features.ids[k]))
    names = ((features.ids[k], float(scores[k])) for k in order)
    return [
        RankedScene(n, name, round(score, 6), labels.get(name)) for n, (name, score) in enumerate(names, start=1)
    ], confidence


def _labelled_rows(row: Mapping[str, int], labels: Mapping[str, str]) -> tuple[list[int], Array]:
    """Rows of the labelled scenes, and whether each is good; ValueError if they do not suffice."""
    unknown = [name for name in labels if name not in row]
    if unknown:
        others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise ValueError(
            f"{unknown[0]!r:.80}{others} of the labels are in no scene of the features; use the features of the scenes "
            "that were labelled"
        )
    counts = Counter(label for label in labels.values() if label in (GOOD, BAD))
    for word, other in ((GOOD, BAD), (BAD, GOOD)):
        if counts[word] < LEAST:
            raise ValueError(
                f"only {counts[word]} scenes are labelled {word} (and {counts[other]} {other}); at least {LEAST} of "
                "each are needed, and some hundred of each make a ranking worth having"
            )
    labelled = sorted((row[name], label == GOOD) for name, label in labels.items() if label in (GOOD, BAD))
    return [k for k, _ in labelled], np.array([good for _, good in labelled])


def _confidence(shown: Array, truth: Array, softness: float) -> RankingConfidence:
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    scores = np.zeros(len(truth))
    for known, hidden in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(truth, truth):
        scores[hidden] = _scores(_fitted(shown[known], truth[known], softness), shown[hidden])
    right = (scores > 0) == truth
    good, bad = int(truth.sum()), int((~truth).sum())
    balanced = (right[truth].mean() + right[~truth].mean()) / 2
    return RankingConfidence(
        good, bad, FOLDS, float(right.mean()), float(balanced), float(roc_auc_score(truth, scores))
    )


def _fitted(shown: Array, truth: Array, softness: float) -> Any:
    """An SVM with Gaussian kernel on (N, V, D): every view is an example, with balanced class weights."""
    from sklearn.svm import SVC

    count, views, width = shown.shape
    machine = SVC(C=softness, kernel="rbf", gamma="scale", class_weight="balanced")
    return machine.fit(shown.reshape(count * views, width), np.repeat(truth, views))


def _scores(machine: Any, shown: Array) -> Array:
    """The mean over views of the distance from the border, positive on the good side, of (N, V, D): (N,)."""
    count, views, width = shown.shape
    return machine.decision_function(shown.reshape(count * views, width)).reshape(count, views).mean(axis=1)
