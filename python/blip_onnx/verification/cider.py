"""CIDEr-D, how much captions say the same as reference captions: 0, or up to 10 for equal ones.

R. Vedantam, C. L. Zitnick, D. Parikh, "CIDEr: Consensus-based Image Description Evaluation",
CVPR 2015, in its variant CIDEr-D and with one reference an image: n-grams of 1 to 4 words weighed by how
few images have them, cosine with counts clipped to the reference's, times a Gaussian of the
difference in length, mean over n, times 10. Constants are those of the authors' code (coco-caption).
A caption below 4 words cannot reach 10, nor one whose words are every image's.
"""

from __future__ import annotations

import math
from collections import Counter

_LONGEST = 4
_SIGMA = 6.0

# Per length of n-gram, how often each occurs.
_Counts = list[Counter[tuple[str, ...]]]


def cider(captions: list[str], references: list[str]) -> float:
    """Mean over the images; `references` also say how common an n-gram is."""
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
    """Mean over the lengths of n-gram."""
    apart = caption[0].total() - reference[0].total()
    total = 0.0
    for theirs, ours in zip(caption, reference, strict=True):
        weight = {gram: log_images - math.log(max(1, frequency[gram])) for gram in theirs | ours}
        dot = sum(min(theirs[g], ours[g]) * ours[g] * weight[g] ** 2 for g in theirs)
        norms = _norm(theirs, weight) * _norm(ours, weight)
        total += dot / norms if norms else 0.0
    return total / _LONGEST * math.exp(-(apart**2) / (2 * _SIGMA**2))


def _norm(grams: Counter, weight: dict[tuple[str, ...], float]) -> float:
    return math.sqrt(sum((count * weight[gram]) ** 2 for gram, count in grams.items()))
