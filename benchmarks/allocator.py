"""How fast the allocator proves its optimum: uncoupled sites, and the widths of a ResNet-50 with bilinear latency.

Run: python benchmarks/allocator.py
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from reverie.compress.allocator import Allocation, Option, PairCost, Site, allocate

STAGES = ((256, 64, 3, 56), (512, 128, 4, 28), (1024, 256, 6, 14), (2048, 512, 3, 7))


def uncoupled(sites: int, options: int, *, seed: int) -> tuple[list[Site], float]:
    """Sites whose loss falls as their cost rises, and half of their full cost as the budget."""
    rng = np.random.default_rng(seed)
    made, full = [], 0.0
    for index in range(sites):
        costs = np.sort(rng.random(options)) * rng.uniform(0.2, 2)
        losses = rng.exponential(1, options)[::-1].cumsum()[::-1] * rng.uniform(0.1, 3)
        full += costs.max()
        pairs = zip(losses, costs, strict=True)
        made.append(
            Site(f"s{index}", tuple(Option(str(o), loss, {"ms": cost}) for o, (loss, cost) in enumerate(pairs)))
        )
    return made, full / 2


def staircase_ms(inputs: int, outputs: int, *, size: int, kernel: int) -> float:
    """Time of a convolution that works in tiles of 16 input and 64 output channels, at 50 GMAC/s."""
    tiles = -(-inputs // 16) * 16 * -(-outputs // 64) * 64
    return 2e-3 + tiles * kernel**2 * size**2 / 50e6


def resnet50(widths: int, *, share: float, seed: int) -> tuple[list[Site], list[PairCost], dict[str, float]]:
    """Four residual streams and 32 inner widths; every convolution couples the widths of its two sides."""
    rng = np.random.default_rng(seed)
    sites: dict[str, Site] = {}
    channels: dict[str, list[int]] = {}

    def site(name: str, full: int) -> str:
        kept = [max(1, round(full * (i + 1) / widths)) for i in range(widths)]
        importance = np.sort(rng.exponential(1, full))[::-1].cumsum() * rng.uniform(0.3, 3) / full
        channels[name] = kept
        sites[name] = Site(name, tuple(Option(str(k), float(importance[-1] - importance[k - 1])) for k in kept))
        return name

    pairs: list[PairCost] = []

    def conv(inputs: str, outputs: str, *, size: int, kernel: int) -> None:
        table = [[staircase_ms(i, o, size=size, kernel=kernel) for o in channels[outputs]] for i in channels[inputs]]
        pairs.append(PairCost(inputs, outputs, {"ms": np.array(table)}))

    stream = site("stem", 64)
    for number, (outer, inner, blocks, size) in enumerate(STAGES, start=1):
        out = site(f"layer{number}", outer)
        conv(stream, out, size=size, kernel=1)
        for block in range(blocks):
            first, second = site(f"layer{number}.{block}.a", inner), site(f"layer{number}.{block}.b", inner)
            conv(stream if block == 0 else out, first, size=size, kernel=1)
            conv(first, second, size=size, kernel=3)
            conv(second, out, size=size, kernel=1)
        stream = out
    full = sum(float(pair.costs["ms"][-1, -1]) for pair in pairs)
    return list(sites.values()), pairs, {"ms": share * full}


def figure(name: str, runs: list[Callable[[], Allocation]]) -> dict[str, object]:
    """Wall and processor seconds of the median run, the longest one, and the largest gap."""
    wall, processor, gaps = [], [], []
    for run in runs:
        at_wall, at_processor = time.perf_counter(), time.process_time()
        gaps.append(run().gap)
        wall.append(time.perf_counter() - at_wall)
        processor.append(time.process_time() - at_processor)
    return {
        "name": name,
        "unit": "s",
        "value": round(statistics.median(wall), 3),
        "longest": round(max(wall), 3),
        "processor": round(statistics.median(processor), 3),
        "gap": max(gaps),
    }


def main() -> None:
    cases = [uncoupled(100, 200, seed=seed) for seed in range(9)]
    runs = [partial(allocate, sites, budgets={"ms": budget}) for sites, budget in cases]
    print(json.dumps(figure("uncoupled_100x200", runs)))
    for widths in (8, 16):
        for share in (0.7, 0.5, 0.3):
            made = [resnet50(widths, share=share, seed=seed) for seed in range(3)]
            coupled = [partial(allocate, sites, pairs, budgets=budgets) for sites, pairs, budgets in made]
            print(json.dumps(figure(f"resnet50_{widths}_widths_at_{share}", coupled)))


if __name__ == "__main__":
    main()
