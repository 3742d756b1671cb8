"""Learning curves from trials' folders: read, smoothed, joined over seeds, tabulated and drawn.

`rllib plot` and `rllib reproduce` share it. Evaluations are a table with the columns ``row`` (what is compared, such as
an algorithm), ``seed``, ``network`` (that played; "" where there is only one), ``env steps``, ``hours``, ``metric`` and
``value``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy import stats

NETWORKS = {"follower": "follower", "leader": "leader", "agent": ""}  # in a result's keys, and in the table
STYLES = {"follower": "-", "leader": "--", "": "-"}
METRICS = {
    "win_rate": "greedy win rate",
    "episode_return_mean": "greedy return",
    "episode_len_mean": "length of greedy episodes",
}


def evaluations(folders: Sequence[Path], metric: str | None = None) -> pd.DataFrame:
    """The evaluations of one trial: ``network``, ``env steps``, ``hours``, ``metric``, ``value``.

    Args:
        folders: of the trial and of those that continued from its checkpoints, the oldest first. Where a later one
            begins, the earlier one ends, and hours continue from there: Tune counts a restored trial's time from 0.
        metric: a key of the results; by default the win rate where the env knows it, else the mean return.

    Returns:
        No rows if the trial has no evaluation of this metric.
    """
    parts: list[pd.DataFrame] = []
    for folder in folders:
        progress = pd.read_csv(folder / "progress.csv")
        parts = [part[part["timesteps_total"] < progress["timesteps_total"].min()] for part in parts]
        if "time_total_s" in progress:
            progress["time_total_s"] += max((part["time_total_s"].max() for part in parts if len(part)), default=0.0)
        parts.append(progress)
    results = pd.concat(parts, ignore_index=True)
    if metric is None:
        wins = results.filter(regex="^evaluation/[a-z]+/win_rate$").notna().any(axis=None)
        metric = "win_rate" if wins else "episode_return_mean"
    found = []
    for key, network in NETWORKS.items():
        if (column := f"evaluation/{key}/{metric}") in results:
            hours = results.get("time_total_s", np.nan) / 3600
            curve = {"network": network, "env steps": results["timesteps_total"], "hours": hours}
            found.append(pd.DataFrame(curve | {"metric": metric, "value": results[column]}))
    columns = ["network", "env steps", "hours", "metric", "value"]
    if not found:
        return pd.DataFrame(columns=columns)
    return pd.concat(found, ignore_index=True)[columns].dropna(subset="value")


def result_folders(where: Path) -> list[Path]:
    """The trials' folders somewhere below a folder that have results."""
    return [path.parent for path in where.rglob("progress.csv") if path.stat().st_size]


LABEL = 46  # characters of a line in a legend
OVER_SEEDS = (
    "interquartile mean over seeds with its 95% bootstrap interval "
    "(of two or three: their mean, the lowest and the highest)"
)


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap interval of the interquartile mean over the first axis: ``[seeds, ...]``. Of two or three seeds,
    whose interquartile mean is their mean, that is the lowest and the highest: more than 1 in 40 resamples are one seed
    only."""
    if len(values) < 2:
        return values[0], values[0]
    result = stats.bootstrap((values,), iqm, axis=0, n_resamples=2000, method="percentile", vectorized=True, rng=0)
    return result.confidence_interval.low, result.confidence_interval.high


def smooth(steps: np.ndarray, values: np.ndarray, window: float) -> np.ndarray:
    """Of each evaluation, the mean of those in the ``window`` env steps that end with it; ``[evaluations]``.

    Args:
        steps: increasing; ``[evaluations]``.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first, last = np.searchsorted(steps, steps - window, side="right"), np.arange(1, len(steps) + 1)
    return (sums[last] - sums[first]) / (last - first)


def default_window(steps: int) -> int:
    """A 20th of the env steps of a training, rounded to one digit."""
    return max(1, int(float(f"{steps / 20:.0e}")))


@dataclass
class Curve:
    """One network of one row over training.

    Attributes:
        row, network: see the module.
        panel: the title of the panel of the figure that shows it.
        x: env steps or hours; ``[points]``.
        seeds: smoothed evaluations, NaN before a seed's first and after its last one; ``[seeds, points]``.
    """

    row: str
    network: str
    x: np.ndarray
    seeds: np.ndarray
    panel: str = ""

    @property
    def label(self) -> str:
        return f"{self.row} {self.network}".strip()


def curves(table: pd.DataFrame, window: float, by: str = "env steps", points: int = 200) -> list[Curve]:
    """Smooths each seed's evaluations and brings the seeds of one row to common points.

    Args:
        window: env steps to smooth over.
        by: "env steps" or "hours".
    """
    found = []
    for (row, network), group in table.groupby(["row", "network"], sort=False):
        x = np.linspace(group[by].min(), group[by].max(), points)
        seeds = []
        for _, one in group.sort_values("env steps").groupby("seed"):
            smoothed = smooth(one["env steps"].to_numpy(), one["value"].to_numpy(), window)
            seeds.append(np.interp(x, one[by], smoothed, left=np.nan, right=np.nan))
        found.append(Curve(str(row), str(network), x, np.array(seeds)))
    return found


def final(table: pd.DataFrame, row: str, network: str, first: float, last: float = np.inf) -> pd.Series:
    """Of each seed, the mean of the evaluations between two env steps; ``[seeds]``, with the seeds as its index."""
    chosen = table[(table["row"] == row) & (table["network"] == network) & table["env steps"].between(first, last)]
    return chosen.groupby("seed")["value"].mean()


def area(table: pd.DataFrame, row: str, network: str) -> pd.Series:
    """Of each seed, the area under its evaluations (trapezoidal rule) over the env steps that they span, which is
    their mean over training; ``[seeds]``, with the seeds as its index."""

    def mean(curve: pd.DataFrame) -> float:
        steps, values = curve["env steps"].to_numpy(float), curve["value"].to_numpy(float)
        return float(np.trapezoid(values, steps) / (steps[-1] - steps[0])) if len(curve) > 1 else float(values[0])

    chosen = table[(table["row"] == row) & (table["network"] == network)].sort_values("env steps")
    return pd.Series({seed: mean(curve) for seed, curve in chosen.groupby("seed")}, dtype=float)


def transfer(table: pd.DataFrame, row: str) -> pd.Series:
    """Follower over leader in each evaluation in which the leader is good: with a win rate of 0.7, or of returns with
    0.7 of the row's best; ``[evaluations]``."""
    chosen = table[table["row"] == row]
    both = chosen.pivot_table(index=["seed", "env steps"], columns="network", values="value")
    if not {"leader", "follower"} <= set(both.columns):
        return pd.Series(dtype=float)
    best = 1.0 if (chosen["metric"] == "win_rate").all() else both["leader"].max()
    good = both[both["leader"] >= 0.7 * best] if best > 0 else both[:0]
    return good["follower"] / good["leader"]


def stratified(groups: Sequence[np.ndarray]) -> str:
    """Interquartile mean of the seeds of several groups together, such as maps, with its 95% bootstrap interval, for
    which each group is resampled by itself (Agarwal et al. 2021); "" of none."""
    groups = [np.asarray(group) for group in groups if len(group)]
    if not groups:
        return ""
    rng = np.random.default_rng(0)
    draws = [group[rng.integers(len(group), size=(2000, len(group)))] for group in groups]
    low, high = np.percentile(iqm(np.concatenate(draws, axis=1), axis=1), (2.5, 97.5))
    return f"{iqm(np.concatenate(groups)):.2f} [{low:.2f}, {high:.2f}]"


def figure_of(values: np.ndarray | pd.Series) -> str:
    """Interquartile mean over seeds, with its interval if there are several; "" of none."""
    values = np.asarray(values)
    if not len(values):
        return ""
    low, high = interval(values)
    return f"{iqm(values):.2f}" + (f" [{low:.2f}, {high:.2f}]" if len(values) > 1 else "")


def episodes_of(params: Iterable[dict[str, Any]]) -> str:
    """How many episodes an evaluation has, from trials' configs: "64 episodes"; "" where the trials differ."""
    numbers = {config.get("evaluation_duration") for config in params}
    return f"{numbers.pop()} episodes" if len(numbers) == 1 and None not in numbers else ""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def draw(
    shown: Sequence[Curve],
    metric: str,
    episodes: str,
    window: float,
    title: str,
    out: Path,
    by: str = "env steps",
    one_scale: bool = True,
) -> None:
    """Writes a PNG: of each curve the interquartile mean over seeds with its 95% interval, as far as all seeds go, and
    each single seed as a light line. A row has a color, a leader dashes, and each panel has its own axes. Where a bad
    start lies far below zero, the axis begins higher, as the note below says.

    Args:
        metric: a key of the results.
        episodes: of one evaluation, see :func:`episodes_of`.
        window: env steps that were smoothed over.
        by: "env steps" or "hours".
        one_scale: whether all panels have the same scale.
    """
    mpl.use("agg")
    import matplotlib.pyplot as plt

    panels = {panel: [c for c in shown if c.panel == panel] for panel in dict.fromkeys(c.panel for c in shown)}
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    legend = max(sum(len(textwrap.wrap(c.label, LABEL)) + 0.5 for c in its) for its in panels.values()) / (3 - columns)
    colors = {row: f"C{k % 10}" for k, row in enumerate(dict.fromkeys(curve.row for curve in shown))}
    minutes = by == "hours" and max(curve.x[-1] for curve in shown) < 1
    note = f"Each point: the mean of the evaluations in the {window:,.0f} env steps before it."
    if any(len(curve.seeds) > 1 for curve in shown):
        note += f"\nBold: {OVER_SEEDS}; light: single seeds."
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        size = (9, 0.8 + (3.6 + 0.19 * legend) * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=one_scale)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, (panel, its) in zip(grid.flat, panels.items(), strict=False):
            for curve in its:
                _draw_curve(axes, curve, colors[curve.row])
            axes.set_title(textwrap.fill(panel, 50), fontsize="medium")
            name = METRICS.get(metric, metric.replace("_", " "))
            axes.set(xlim=(0, None), ylabel=f"{name} ({episodes})" if episodes else name)
            axes.set_xlabel(by if by == "env steps" else f"{'minutes' if minutes else 'hours'} of training")
            if by == "env steps":
                axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
            elif minutes:
                axes.xaxis.set_major_formatter(lambda hours, _: f"{60 * hours:.3g}")
            scaled = shown if one_scale else its
            top, bottom = max(np.nanmax(c.seeds) for c in scaled), min(np.nanmin(c.seeds) for c in scaled)
            if metric == "win_rate":
                axes.set_ylim(-0.02, 1.02)
            elif top > 0 and bottom < -0.6 * top:
                axes.set_ylim(-0.6 * top, 1.05 * top)
                if "The axis begins" not in note:
                    note += f"\nThe axis begins above the lowest point, {bottom:,.4g}."
            axes.tick_params(labelleft=True)
            axes.grid(alpha=0.3)
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
            axes.legend(fontsize="small", ncols=3 - columns, frameon=False, **below)
        figure.suptitle(title, fontsize="medium")
        figure.supxlabel(note, fontsize=7)
        figure.savefig(out, dpi=150)
        plt.close(figure)


def _draw_curve(axes: Any, curve: Curve, color: str) -> None:
    style = STYLES[curve.network]
    common = ~np.isnan(curve.seeds).any(0)
    x, values = curve.x[common], curve.seeds[:, common]
    count = len(values)
    if count > 1:
        axes.plot(curve.x, curve.seeds.T, style, color=color, alpha=0.3, linewidth=0.8)
        axes.fill_between(x, *interval(values), color=color, alpha=0.15, linewidth=0)
    label = textwrap.fill(f"{curve.label} ({count} seed{'s' * (count > 1)})", LABEL)
    axes.plot(x, iqm(values), style, color=color, linewidth=1.8, label=label)
