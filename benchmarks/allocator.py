"""How fast the allocator proves its optimum: uncoupled sites, and the widths of a ResNet-50 with bilinear latency.

Run: python benchmarks/allocator.py
"""

import json
import time

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


def timed(sites: list[Site], pairs: list[PairCost], budgets: dict[str, float]) -> tuple[float, Allocation]:
    started = time.perf_counter()
    found = allocate(sites, pairs, budgets=budgets)
    return time.perf_counter() - started, found


def main() -> None:
    sites, budget = uncoupled(100, 200, seed=0)
    runs = [timed(sites, [], {"ms": budget}) for _ in range(5)]
    figure = {
        "name": "uncoupled_100x200",
        "value": sorted(run[0] for run in runs)[2],
        "unit": "s",
        "gap": runs[0][1].gap,
    }
    print(json.dumps(figure))
    for widths in (8, 16):
        for share in (0.7, 0.5, 0.3):
            seconds, found = timed(*resnet50(widths, share=share, seed=0))
            print(
                json.dumps(
                    {"name": f"resnet50_{widths}_widths_{share}", "value": seconds, "unit": "s", "gap": found.gap}
                )
            )


if __name__ == "__main__":
    main()
