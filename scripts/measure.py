"""What the benchmarks share: medians, rates and tables, and episodes to measure on."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rllib_ddn.learning.episodes import Episodes, empty_episodes


class Measurements:
    """Measures functions and prints tables; ``results`` holds every figure under its section.

    Args:
        repeats: of each measurement, whose median counts.
        gpu: whether to wait for the GPU before and after.
    """

    def __init__(self, repeats: int, gpu: bool):
        self.repeats, self.gpu = repeats, gpu
        self.results: dict[str, Any] = {}

    def medians(self, functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        """Median seconds of each function; they take turns, after one turn that does not count."""
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(self.repeats + 1):
            for name, function in functions.items():
                self.wait()
                start = time.perf_counter()
                function()
                self.wait()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def rate(self, play: Callable[[], list[Episodes]]) -> float:
        """Median env steps per second of a function that plays episodes."""
        play()
        rates = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            steps = sum(int(batch["length"].sum()) for batch in play())
            self.wait()
            rates.append(steps / (time.perf_counter() - start))
        return statistics.median(rates)

    def compare(self, earlier: Mapping[str, Any]) -> None:
        """A table of all figures that an earlier run's JSON has, too."""
        before, now = (dict(leaves(results)) for results in (earlier, self.results))
        shared = [name for name in now if before.get(name)]
        rows = [
            (name, f"{before[name]:,.4g}", f"{now[name]:,.4g}", f"{now[name] / before[name]:.2f}") for name in shared
        ]
        self.table("held against the earlier run", ("figure", "earlier", "now", "ratio"), rows)

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def table(self, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        print(flush=True)


def product_flop(_, left: Sequence[int], right: Sequence[int], **__: Any) -> int:
    """Floating-point operations of a product of matrices of these shapes, or of a batch of them."""
    return 2 * math.prod(left) * right[-1]


# Products that torch's counter leaves out: those added in place.
IN_PLACE_FLOP = {torch.ops.aten.addmm_: product_flop, torch.ops.aten.baddbmm_: product_flop}


def leaves(results: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Name and value of all figures, seconds left out where yardsticks tell more."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}, ")
        elif isinstance(value, int | float) and not (name == "seconds" and "yardsticks" in results):
            yield above + name, value


def random_episodes(spec: Any, count: int, steps: int) -> Episodes:
    """Full episodes of noise in the env's dtypes."""
    rng = np.random.default_rng(0)
    episodes = empty_episodes(count, steps, spec)
    for name in ("obs", "state", "action_mask"):
        episodes[name][:] = rng.integers(0, 2, episodes[name].shape)
    episodes["action_mask"][..., 0] = True
    episodes["actions"][:] = rng.integers(0, spec.num_actions, episodes["actions"].shape)
    episodes["rewards"][:] = rng.normal(size=episodes["rewards"].shape)
    episodes["length"][:] = steps
    return episodes


def with_threads(count: int, function: Callable[[], Any]) -> None:
    torch.set_num_threads(count)
    function()


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
