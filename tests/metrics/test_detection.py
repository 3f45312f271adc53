"""Average precision by hand, and against independent code on random boxes."""

import numpy as np
import pytest
import torch

from reverie.core.errors import RangeError, ShapeError
from reverie.metrics.detection import COCO_OVERLAPS, Found, Truth, average_precision, overlaps

A, B, FAR = [0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [8.0, 8.0, 9.0, 9.0]


def truth(*boxes: list[float], labels: list[int] | None = None) -> Truth:
    return Truth(torch.tensor(boxes).view(-1, 4), torch.tensor(labels or [0] * len(boxes), dtype=torch.int64))


def found(*scored: tuple[list[float], float], labels: list[int] | None = None) -> Found:
    boxes = torch.tensor([box for box, _ in scored]).view(-1, 4)
    scores = torch.tensor([score for _, score in scored])
    return Found(boxes, torch.tensor(labels or [0] * len(scored), dtype=torch.int64), scores)


def half(*pairs: tuple[Found, Truth]) -> float:
    return average_precision([one for one, _ in pairs], [other for _, other in pairs], thresholds=(0.5,))


def test_overlaps_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0], [1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[1, 1 / 7, 0, 0], [1 / 7, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert torch.allclose(overlaps(boxes, boxes), expected)


def test_right_wrong_right_by_hand() -> None:
    # Recall 1/2 at precision 1, recall 1 at precision 2/3: 51 recalls up to 0.5, and 50 above.
    seen = found((A, 0.9), (FAR, 0.8), (B, 0.7))
    assert half((seen, truth(A, B))) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_what_is_missed_has_no_precision() -> None:
    assert half((found((A, 0.9)), truth(A, B))) == pytest.approx(51 / 101)
    assert half((found(), truth(A))) == 0.0
    assert half((found((FAR, 0.9)), truth(A))) == 0.0


def test_an_overlap_of_exactly_the_threshold_is_enough() -> None:
    seen, wanted = found(([0.0, 0.0, 7.0, 1.0], 0.9)), truth([0.0, 0.0, 10.0, 1.0])
    assert average_precision([seen], [wanted], thresholds=(0.7,)) == 1.0


def test_a_truth_is_found_once() -> None:
    twice = found((A, 0.9), (A, 0.8), (B, 0.7))
    assert half((twice, truth(A, B))) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_surest_detection_takes_the_truth_whatever_the_order_they_come_in() -> None:
    seen = found((B, 0.7), (FAR, 0.8), (A, 0.9))
    assert half((seen, truth(A, B))) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_images_and_classes_do_not_mix() -> None:
    assert half((found(), truth(A)), (found((A, 0.9)), truth(B))) == 0.0
    assert half((found((A, 0.9), labels=[1]), truth(A))) == 0.0
    both = half((found((A, 0.9), (B, 0.9), labels=[0, 1]), truth(A, B, labels=[0, 2])))
    assert both == pytest.approx(0.5), "a class that does not occur does not count; one that is never found counts 0"


def test_a_box_counts_up_to_its_overlap() -> None:
    shifted = [0.0, 0.0, 1.0, 0.62]  # overlaps A by 0.62: right at 0.50, 0.55 and 0.60
    assert average_precision([found((shifted, 0.9))], [truth(A)]) == pytest.approx(0.3)
    assert len(COCO_OVERLAPS) == 10


def test_equals_independent_code_on_random_boxes() -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(12):
        corner, size = rng.uniform(0, 1, (6, 2)), rng.uniform(0.3, 0.6, (6, 2))
        boxes = np.concatenate([corner, corner + size], 1)
        moved = boxes[:5] + rng.normal(0, 0.05, (5, 4))
        images.append((boxes[:4], rng.integers(0, 3, 4), moved, rng.integers(0, 3, 5), rng.uniform(0, 1, 5)))
    ours = average_precision(
        [Found(*(torch.from_numpy(part) for part in image[2:])) for image in images],
        [Truth(*(torch.from_numpy(part) for part in image[:2])) for image in images],
    )
    assert ours == pytest.approx(float(np.mean([_oracle(images, k, t) for k in range(3) for t in COCO_OVERLAPS])))
    assert 0.02 < ours < 0.9


def _oracle(images: list[tuple[np.ndarray, ...]], label: int, threshold: float) -> float:
    """From the definition: detections of all images from the surest down, each with the best free truth."""
    order = sorted(
        ((score, i, j) for i, image in enumerate(images) for j, score in enumerate(image[4]) if image[3][j] == label),
        reverse=True,
    )
    taken: set[tuple[int, int]] = set()
    total = sum(int((image[1] == label).sum()) for image in images)
    hits, points = 0, []
    for rank, (_, i, j) in enumerate(order, 1):
        best, which = threshold, None
        for k, box in enumerate(images[i][0]):
            if images[i][1][k] == label and (i, k) not in taken and _iou(images[i][2][j], box) >= best:
                best, which = _iou(images[i][2][j], box), k
        if which is not None:
            taken.add((i, which))
            hits += 1
        points.append((hits / total, hits / rank))
    return float(
        np.mean([max((p for r, p in points if r >= level - 1e-9), default=0.0) for level in np.linspace(0, 1, 101)])
    )


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, across) * max(0.0, down)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ShapeError, match="1 images of truths need as many"):
        average_precision([], [truth(A)])
    with pytest.raises(RangeError, match="at least one true box"):
        average_precision([found((A, 0.9))], [truth()])
    with pytest.raises(RangeError, match=r"overlaps in \(0, 1\]"):
        average_precision([found((A, 0.9))], [truth(A)], thresholds=(1.5,))
    with pytest.raises(ShapeError, match=r"\(3,\) labels|got \(2, 4\) and \(1,\)"):
        Truth(torch.zeros(2, 4), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ShapeError, match="as many scores"):
        Found(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), torch.zeros(1))
