"""CIDEr-D, the similarity of captions to reference captions, from 0 to 10.

R. Vedantam, C. L. Zitnick, D. Parikh, "CIDEr: Consensus-based Image Description Evaluation",
CVPR 2015, in its variant CIDEr-D and with one reference per image: n-grams of 1 to 4 words weighted
by inverse document frequency, cosine with counts clipped to those of the reference, times a Gaussian
of the difference in length, mean over n, times 10. The constants are those of coco-caption. A
caption of fewer than 4 words cannot reach 10, nor one whose words occur in every reference.
"""

from __future__ import annotations

import math
from collections import Counter

_LONGEST = 4
_SIGMA = 6.0

# The number of occurrences of each n-gram, for each n from 1.
_Counts = list[Counter[tuple[str, ...]]]


def cider(captions: list[str], references: list[str]) -> float:
    """Return the mean over the images; document frequencies are those of `references`."""
    counts = [_count(reference) for reference in references]
    frequency = Counter(gram for lengths in counts for grams in lengths for gram in grams)
    total = sum(
        _similarity(_count(caption), reference, frequency, math.log(len(references)))
        for caption, reference in zip(captions, counts, strict=True)
    )
    return 10 * total / len(captions)


def _count(caption: str) -> _Counts:
    words = caption.split()
    return [
        Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
        for n in range(1, _LONGEST + 1)
    ]


def _similarity(
    caption: _Counts, reference: _Counts, frequency: Counter, log_images: float
) -> float:
    """Return the mean over the lengths of n-grams."""
    difference = caption[0].total() - reference[0].total()
    total = 0.0
    for found, expected in zip(caption, reference, strict=True):
        weight = {g: log_images - math.log(max(1, frequency[g])) for g in found | expected}
        dot = sum(min(found[g], expected[g]) * expected[g] * weight[g] ** 2 for g in found)
        norms = _norm(found, weight) * _norm(expected, weight)
        total += dot / norms if norms else 0.0
    return total / _LONGEST * math.exp(-(difference**2) / (2 * _SIGMA**2))


def _norm(grams: Counter, weight: dict[tuple[str, ...], float]) -> float:
    return math.sqrt(sum((count * weight[gram]) ** 2 for gram, count in grams.items()))
