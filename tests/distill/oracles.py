"""Independent float64 code of every loss, in NumPy with plain loops, and slopes by finite differences."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    """Gaussian float64 numbers."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64) * scale


def softmax(row: Array) -> Array:
    raised = np.exp(row - row.max())
    return raised / raised.sum()


def divergence(wanted: Array, given: Array) -> float:
    return sum(t * (math.log(t) - math.log(s)) for t, s in zip(wanted, given, strict=True))


def soft_label(student: Array, teacher: Array, *, temperature: float) -> float:
    total = 0.0
    for row_s, row_t in zip(student, teacher, strict=True):
        total += divergence(softmax(row_t / temperature), softmax(row_s / temperature))
    return temperature**2 * total / len(student)


def standardized(student: Array, teacher: Array, *, temperature: float) -> float:
    def standard(rows: Array) -> Array:
        return np.stack([(row - sum(row) / len(row)) / math.sqrt(np.mean((row - np.mean(row)) ** 2)) for row in rows])

    return soft_label(standard(student), standard(teacher), temperature=temperature)


def pearson(a: Array, b: Array) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def correlation(
    student: Array, teacher: Array, *, temperature: float, within_image: float = 1.0, within_class: float = 1.0
) -> float:
    s, t = (np.stack([softmax(row / temperature) for row in rows]) for rows in (student, teacher))
    rows = [pearson(a, b) for a, b in zip(s, t, strict=True)]
    columns = [pearson(s[:, k], t[:, k]) for k in range(s.shape[1])]
    asked = within_image * (1 - sum(rows) / len(rows)) + within_class * (1 - sum(columns) / len(columns))
    return temperature**2 * asked


def decoupled(student: Array, teacher: Array, *, temperature: float, target: float, others: float) -> float:
    total = 0.0
    for row_s, row_t in zip(student, teacher, strict=True):
        k = int(row_t.argmax())
        p_s, p_t = softmax(row_s / temperature), softmax(row_t / temperature)
        total += target * divergence(np.array([p_t[k], 1 - p_t[k]]), np.array([p_s[k], 1 - p_s[k]]))
        rest = [index for index in range(len(row_s)) if index != k]
        total += others * divergence(p_t[rest] / p_t[rest].sum(), p_s[rest] / p_s[rest].sum())
    return temperature**2 * total / len(student)


def feature(student: Array, teacher: Array) -> float:
    return float(((student - teacher) ** 2).sum() / (teacher**2).sum())


def attention(student: Array, teacher: Array) -> float:
    total = 0.0
    for map_s, map_t in zip(student, teacher, strict=True):
        q = []
        for one in (map_s, map_t):
            energy = np.array(
                [[sum(v * v for v in one[:, y, x]) for x in range(one.shape[2])] for y in range(one.shape[1])]
            )
            q.append(energy / math.sqrt((energy**2).sum()))
        total += float(((q[0] - q[1]) ** 2).sum())
    return total / len(student)


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size * size if size < 1 else size - 0.5


def distance(student: Array, teacher: Array) -> float:
    n = len(student)
    tables = []
    for points in (student.reshape(n, -1), teacher.reshape(n, -1)):
        lengths = [math.dist(points[i], points[j]) for i in range(n) for j in range(n) if i != j]
        tables.append([length / (sum(lengths) / len(lengths)) for length in lengths])
    return sum(huber(s - t) for s, t in zip(*tables, strict=True)) / (n * (n - 1))


def angle(student: Array, teacher: Array) -> float:
    n = len(student)
    flat_s, flat_t = student.reshape(n, -1), teacher.reshape(n, -1)
    terms = []
    for j in range(n):
        for i in range(n):
            for k in range(n):
                if len({i, j, k}) == 3:
                    cosines = []
                    for points in (flat_s, flat_t):
                        a, b = points[i] - points[j], points[k] - points[j]
                        cosines.append(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
                    terms.append(huber(cosines[0] - cosines[1]))
    return sum(terms) / len(terms)


def similarity(student: Array, teacher: Array) -> float:
    n = len(student)
    grams = []
    for points in (student.reshape(n, -1), teacher.reshape(n, -1)):
        gram = np.array([[float(points[i] @ points[j]) for j in range(n)] for i in range(n)])
        grams.append(gram / np.sqrt((gram**2).sum(1, keepdims=True)))
    return float(((grams[0] - grams[1]) ** 2).sum() / n**2)


def contrastive(student: Array, teacher: Array, *, temperature: float) -> float:
    n = len(student)
    total = 0.0
    for i in range(n):
        a = student[i].ravel()
        cosines = []
        for j in range(n):
            b = teacher[j].ravel()
            cosines.append(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) / temperature)
        total -= math.log(softmax(np.array(cosines))[i])
    return total / n


def finite_differences(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """The slope of a function of an array, by central differences."""
    slope = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        slope[index] = (function(up) - function(down)) / (2 * step)
    return slope
