"""Draws leader and follower (or a host's agents) over env steps from result folders of Tune, as PNG and CSV.

python scripts/plot.py ~/ray_results/predator-prey-easy-ddn --out curves.png [--csv curves.csv]

A folder is an experiment or a trial; all trials found are taken as seeds of one setting. With
several, the mean and a 95% bootstrap interval are drawn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import seaborn as sns

COLORS = {"leader": "#265c99", "follower": "#de7826", "agent": "#5a8f4d"}


def load(folders: list[Path], metric: str) -> pd.DataFrame:
    """One row per trial, evaluation and network: ``seed``, ``env steps``, ``network``, ``metric``.

    Raises:
        SystemExit: there is no trial, or one without evaluations.
    """
    frames: list[pd.DataFrame] = []
    for path in sorted(p for folder in folders for p in folder.expanduser().rglob("progress.csv")):
        names = {f"evaluation/{network}/{metric}": network for network in COLORS}
        columns = {column: names[column] for column in pd.read_csv(path, nrows=0) if column in names}
        if not columns:
            raise SystemExit(f"plot: {path} has no column {next(iter(names))}.")
        curves = pd.read_csv(path, usecols=["timesteps_total", *columns])
        curves = curves.rename(columns={**columns, "timesteps_total": "env steps"})
        seed = json.loads((path.parent / "params.json").read_text()).get("seed")
        curves["seed"] = len(frames) + 1 if seed is None else seed
        long = curves.melt(["seed", "env steps"], list(columns.values()), "network", metric).dropna()
        frames.append(long)
    if not frames:
        raise SystemExit(f"plot: there is no progress.csv under {', '.join(map(str, folders))}.")
    return pd.concat(frames, ignore_index=True)


def draw(curves: pd.DataFrame, metric: str, title: str, out: Path) -> None:
    """Writes the PNG. Seeds are evaluated at slightly different steps and are joined in bins."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    bin_size = curves.groupby(["seed", "network"])["env steps"].diff().median()
    binned = curves.assign(**{"env steps": (curves["env steps"] / bin_size).round() * bin_size})
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    sns.lineplot(
        binned,
        x="env steps",
        y=metric,
        hue="network",
        palette=COLORS,
        errorbar=("ci", 95),
        ax=axes,
    )
    seeds = curves["seed"].nunique()
    axes.set(title=f"{title} ({seeds} seed{'s' * (seeds > 1)})", ylabel=metric.replace("_", " "), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(title=None)
    sns.despine(figure)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="result folders")
    parser.add_argument("--metric", default="episode_return_mean", help="or win_rate, episode_len_mean")
    parser.add_argument("--title", default="DDN", help="title of the figure")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="PNG to write")
    parser.add_argument("--csv", type=Path, help="CSV to write")
    parser.add_argument("--mean-from", type=int, metavar="STEPS", help="print means from here on; default: the last tenth")
    parser.add_argument("--mean-to", type=int, metavar="STEPS", help="and up to here")
    options = parser.parse_args()
    curves = load(options.folders, options.metric)
    draw(curves, options.metric, options.title, options.out)
    if options.csv:
        curves.to_csv(options.csv, index=False)
    steps = curves["env steps"]
    first = steps.max() * 0.9 if options.mean_from is None else options.mean_from
    last = steps.max() if options.mean_to is None else options.mean_to
    window = curves[steps.between(first, last)].groupby(["network", "seed"])[options.metric].mean().unstack()
    print(f"{options.out}: mean of the evaluations between {first:.0f} and {last:.0f} env steps")
    for network, seeds in window.iterrows():
        print(f"  {network:8s} {seeds.mean():.2f}  ({', '.join(f'seed {s}: {v:.2f}' for s, v in seeds.items())})")


if __name__ == "__main__":
    main()
