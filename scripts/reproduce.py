"""Runs the grid of one of the paper's tables or figures, and writes it in the paper's layout.

python scripts/reproduce.py table3 --seeds 2 --steps 150000 --cpus 2
python scripts/reproduce.py figure5 --env predator_prey --env-config '{"penalty": 2.0}'

The grids are tuned_examples/paper/*.yaml. Trials run on Ray Tune, by `rllib train file`. Run again, it
starts no finished trial anew, whichever table it was run for, and continues interrupted ones from their
checkpoints. It writes NAME.md (the table beside the paper's figures), NAME.csv (all evaluations) and
NAME.png (curves) to --out. Figures are means of the evaluations in the last tenth of the steps, then the
interquartile mean over seeds with a 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import yaml
from ray.tune.registry import get_trainable_cls
from scipy import stats

import rllib_ddn  # noqa: F401  (registers the algorithms)

GRIDS = Path(__file__).parents[1] / "tuned_examples" / "paper"
NETWORKS = ("leader", "follower", "agent")
SCALED = ("leader_timesteps", "mixture_timesteps")  # stages whose length follows the number of steps


@dataclass
class Table:
    """A table of the paper.

    Attributes:
        title: what it compares.
        labels: of each experiment of its grid, the cells that name it.
        header: names of these cells' columns.
        paper: the paper's figures: of each SMAC map, one for each experiment, "" where it has none.
        note: what the reader must know of the paper's figures.
    """

    title: str
    header: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    paper: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""


HOSTS = {
    "vdn": "VDN",
    "qmix": "QMIX",
    "qatten": "Qatten",
    "qplex": "QPLEX",
    "cwqmix": "CW-QMIX",
    "owqmix": "OW-QMIX",
    "qtran": "QTRAN",
}
LEADERS = "The paper's figures are the leader's: for DDN as it is, they are those that its Table 2 has for the leader."
TABLES = {
    "table1": Table(
        "Performance of methods before and after integrating DDN",
        ("Algorithm",),
        {"vdn": ("VDN",), "ddn_vdn": ("VDN DDN",), "qatten": ("Qatten",), "ddn_qatten": ("Qatten DDN",)},
        {"3s_vs_5z": ("0.9089", "0.9453", "0.6510", "0.8945"), "MMM2": ("0.0352", "0.3229", "0.6615", "0.7422")},
    ),
    "table2": Table(
        "The two phases: leader / follower, teacher / student, expert / learner",
        ("Algorithm",),
        {"igmda": ("IGMDA",), "ctds": ("CTDS",), "ptde": ("PTDE",), "ddn": ("DDN",)},
        {
            "3s_vs_5z": ("", "", "0.9920/0.8870", "0.9701/0.9323"),
            "5m_vs_6m": ("0.5048/0.3815", "0.6690/0.4810", "0.8060/0.6900", "0.7188/0.5404"),
            "MMM2": ("0.5607/0.1312", "0.8060/0.2810", "", "0.8789/0.6042"),
            "3s5z_vs_3s6z": ("", "", "0.7760/0.6740", "0.8776/0.4010"),
        },
    ),
    "table3": Table(
        "Personalized and raw state in DDN",
        ("State",),
        {"personalized": ("personalized state",), "raw": ("raw state",)},
        {"3s_vs_5z": ("0.9701", "0.8216"), "MMM2": ("0.8789", "0.1237")},
        LEADERS,
    ),
    "table4": Table(
        "The impact of the distillation losses",
        ("L_B", "L_Q", "L_F"),
        {"block": ("✓", "", ""), "q": ("", "✓", ""), "feature": ("", "", "✓"), "all": ("✓", "✓", "✓")},
        {"3s_vs_5z": ("", "", "", "0.9323"), "MMM2": ("", "", "", "0.6042")},
        "The paper's figures are the follower's. It has one more row, with a single loss, which its text does not name: "
        "0.9219 on 3s_vs_5z and 0.4258 on MMM2.",
    ),
    "table5": Table(
        "The Internal Distillation Module and its mask probability",
        ("Probability",),
        {"no_idm": ("✗",), **{f"mask_{p}": (f"0.{p}",) for p in ("10", "25", "50", "75", "90")}},
        {
            "3s_vs_5z": ("0.9518", "0.9219", "0.9036", "0.9622", "0.9701", "0.9219"),
            "MMM2": ("0.7839", "0.8542", "0.7786", "0.7773", "0.8789", "0.8542"),
        },
        LEADERS,
    ),
    "figure4": Table("DDN and the value decompositions", ("Algorithm",), {k: (v,) for k, v in HOSTS.items()} | {"ddn": ("DDN",)}),
    "figure5": Table(
        "Hosts before and after DDN",
        ("Algorithm",),
        {
            "vdn": ("VDN",),
            "ddn_vdn": ("DDN on VDN",),
            "qplex": ("QPLEX",),
            "ddn_qplex": ("DDN on QPLEX",),
            "owqmix": ("OW-QMIX",),
            "ddn_owqmix": ("DDN on OW-QMIX",),
        },
    ),
}


@dataclass
class Trial:
    """One row of the grid with one seed."""

    row: str
    seed: int
    run: str
    config: dict[str, Any]

    def matches(self, folder: Path) -> bool:
        """Whether a trial's folder holds this trial: the same algorithm and, but for defaults, the same config."""
        if not folder.name.startswith(f"{self.run}_"):
            return False
        defaults = get_trainable_cls(self.run).get_default_config().to_dict()
        essence = lambda config: {k: v for k, v in config.items() if v != defaults.get(k)}  # noqa: E731
        theirs = json.loads((folder / "params.json").read_text())
        return essence(theirs) == essence(json.loads(json.dumps(self.config)))

    def folders(self, storage: Path) -> list[Path]:
        """Of this trial and its continuations, the oldest first."""
        found = [p.parent for p in storage.rglob("params.json") if (p.parent / "progress.csv").is_file() and self.matches(p.parent)]
        return sorted((f for f in found if (f / "progress.csv").stat().st_size), key=lambda f: _steps(f)[0])


def trials(
    table: str, env: str, env_config: dict[str, Any] | None, seeds: int, steps: int, overrides: dict[str, Any]
) -> list[Trial]:
    """The grid of tuned_examples/paper/TABLE.yaml with these options."""
    grid = yaml.safe_load((GRIDS / f"{table}.yaml").read_text())
    found = []
    for name, spec in grid.items():
        shared = {**spec["config"], "env": env, **overrides}
        if env_config is not None or env != spec["env"]:
            shared["env_config"] = env_config or {}
        for key in SCALED:
            if key in shared:
                shared[key] = max(1, round(shared[key] * steps / spec["stop"]["timesteps_total"]))
        row = name.removeprefix(f"{table}-")
        found += [Trial(row, seed, spec["run"], {**shared, "seed": seed}) for seed in range(1, seeds + 1)]
    return found


def _steps(folder: Path) -> tuple[int, int]:
    """First and last step that a trial's folder knows of."""
    steps = pd.read_csv(folder / "progress.csv", usecols=["timesteps_total"])["timesteps_total"]
    return int(steps.min()), int(steps.max())


def pending(found: list[Trial], storage: Path, steps: int) -> Iterator[tuple[Trial, Path | None]]:
    """The trials that have not reached ``steps``, with the latest checkpoint of each."""
    for trial in found:
        folders = trial.folders(storage)
        if folders and _steps(folders[-1])[1] >= steps:
            continue
        checkpoints = [p for folder in folders for p in sorted(folder.glob("checkpoint_[0-9]*"))]
        yield trial, checkpoints[-1] if checkpoints else None


def run(found: list[Trial], storage: Path, table: str, steps: int, cpus: int | None) -> int:
    """Runs what is pending with ``rllib train file``; returns its exit status."""
    experiments = {}
    for trial, checkpoint in pending(found, storage, steps):
        spec: dict[str, Any] = {"run": trial.run, "stop": {"timesteps_total": steps}, "config": trial.config}
        spec["checkpoint_config"] = {"checkpoint_frequency": 5, "checkpoint_at_end": True, "num_to_keep": 1}
        if checkpoint:
            spec["restore"] = str(checkpoint)
        experiments[f"{table}-{trial.row}-seed{trial.seed}"] = spec
    print(f"{table}: {len(found) - len(experiments)} of {len(found)} trials are finished.", flush=True)
    if not experiments:
        return 0
    storage.mkdir(parents=True, exist_ok=True)
    grid = storage / f"{table}.yaml"
    grid.write_text(yaml.safe_dump(experiments, sort_keys=False))
    command = [sys.executable, "-m", "rllib_ddn.cli", "train", "file", str(grid), "--storage-path", str(storage)]
    with subprocess.Popen([*command, *(["--ray-num-cpus", str(cpus)] if cpus else [])]) as child:
        # The child saves its trials when it is interrupted; a terminal sends it Ctrl-C by itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        return child.wait()


def load(found: list[Trial], storage: Path) -> pd.DataFrame:
    """All evaluations: ``row``, ``seed``, ``env steps``, ``network``, and ``figure``: the win rate where the
    env knows it, else the mean return (``metric`` says which).

    Raises:
        SystemExit: there are none.
    """
    frames = []
    for trial in found:
        parts: list[pd.DataFrame] = []
        for folder in trial.folders(storage):
            progress = pd.read_csv(folder / "progress.csv")
            parts = [part[part["timesteps_total"] < progress["timesteps_total"].min()] for part in parts] + [progress]
        if not parts:
            continue
        progress = pd.concat(parts, ignore_index=True)
        metric = "win_rate" if any(f"evaluation/{n}/win_rate" in progress for n in NETWORKS) else "episode_return_mean"
        for network in NETWORKS:
            column = f"evaluation/{network}/{metric}"
            if column in progress:
                curve = pd.DataFrame({"env steps": progress["timesteps_total"], "figure": progress[column]})
                frames.append(curve.assign(row=trial.row, seed=trial.seed, network=network, metric=metric))
    if not frames:
        raise SystemExit(f"reproduce: there are no evaluations under {storage}.")
    columns = ["row", "seed", "network", "env steps", "metric", "figure"]
    return pd.concat(frames, ignore_index=True)[columns].dropna()


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap interval of the interquartile mean over the first axis: ``[seeds, ...]``."""
    if len(values) < 2:
        return values[0], values[0]
    result = stats.bootstrap((values,), iqm, axis=0, n_resamples=2000, method="percentile", vectorized=True, rng=0)
    return result.confidence_interval.low, result.confidence_interval.high


def final(curves: pd.DataFrame, row: str, network: str, steps: int) -> np.ndarray:
    """Of each seed, the mean of the evaluations in the last tenth of the steps; ``[seeds]``."""
    chosen = curves[(curves["row"] == row) & (curves["network"] == network) & (curves["env steps"] >= 0.9 * steps)]
    return chosen.groupby("seed")["figure"].mean().to_numpy()


def markdown(name: str, curves: pd.DataFrame, caption: str, steps: int, where: str) -> str:
    """The table, with this run's figures before the paper's."""
    table = TABLES[name]

    def cell(row: str, network: str) -> str:
        values = final(curves, row, network, steps)
        if not len(values):
            return ""
        low, high = interval(values)
        return f"{iqm(values):.2f}" + (f" [{low:.2f}, {high:.2f}]" if len(values) > 1 else "")

    header = [
        *table.header,
        f"{where}: leader or host",
        f"{where}: follower",
        "follower / leader",
        *(f"paper: {m}" for m in table.paper),
    ]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for k, (row, label) in enumerate(table.labels.items()):
        leader = "agent" if len(final(curves, row, "agent", steps)) else "leader"
        leaders, followers = final(curves, row, "leader", steps), final(curves, row, "follower", steps)
        ratio = ""
        if len(leaders) and len(followers) and iqm(leaders) > 0 and iqm(followers) >= 0:
            ratio = f"{iqm(followers) / iqm(leaders):.0%}"
        cells = [*label, cell(row, leader), cell(row, "follower"), ratio, *(figures[k] for figures in table.paper.values())]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [caption] + ([table.note] if table.note else [])
    return "\n\n".join([f"**{name[:-1].capitalize()} {name[-1]}. {table.title}.**", *notes, "\n".join(lines)]) + "\n"


def draw(name: str, curves: pd.DataFrame, caption: str, out: Path) -> None:
    """Curves: interquartile mean over seeds and its interval, in bins of the steps between evaluations."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    table = TABLES[name]
    width = curves.groupby(["row", "seed", "network"])["env steps"].diff().median()
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for color, (row, label) in zip(sns.color_palette("tab10"), table.labels.items(), strict=False):
        for network, style in (("agent", "-"), ("leader", "-"), ("follower", ":")):
            chosen = curves[(curves["row"] == row) & (curves["network"] == network)]
            if chosen.empty:
                continue
            steps = (chosen["env steps"] / width).round() * width
            seeds = chosen.pivot_table(index=steps, columns="seed", values="figure").interpolate(limit_area="inside").dropna()
            if seeds.empty:
                continue
            values = seeds.to_numpy().T  # [seeds, bins]
            low, high = interval(values)
            names = [head if cell == "✓" else cell for head, cell in zip(table.header, label, strict=True) if cell]
            title = " ".join(names) + (f" ({network})" if network != "agent" else "")
            axes.plot(seeds.index, iqm(values), style, color=color, label=title)
            axes.fill_between(seeds.index, low, high, color=color, alpha=0.15, linewidth=0)
    metric = curves["metric"].iloc[0].replace("_", " ")
    axes.set(xlabel="env steps", ylabel=metric, xlim=(0, None), title=table.title)
    if metric != "win rate":  # a bad start may be far below zero
        top = curves["figure"].max()
        axes.set_ylim(max(curves["figure"].min(), -0.6 * top) if top > 0 else None, None)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.supxlabel(caption, fontsize=7, wrap=True)
    sns.despine(figure)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--env", default="predator_prey", help="registered env; default: predator_prey")
    parser.add_argument("--env-config", type=json.loads, help="its config, as JSON; default: that of the grid's file")
    parser.add_argument("--config", type=json.loads, default={}, help="other keys for all trials, as JSON")
    parser.add_argument("--seeds", type=int, default=6, help="seeds of each row; the paper has 6")
    parser.add_argument("--steps", type=int, default=1_000_000, help="env steps of each trial")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows, named as in the grid's file")
    parser.add_argument("--storage", type=Path, default=Path("~/ray_results/paper"), help="where trials are kept")
    parser.add_argument("--out", type=Path, default=Path("."), help="where the table, CSV and PNG go")
    parser.add_argument("--cpus", type=int, help="CPUs of the local cluster; RAY_ADDRESS names another")
    parser.add_argument("--no-run", action="store_true", help="only write what the trials so far give")
    options = parser.parse_args()
    storage = options.storage.expanduser().absolute()
    found = trials(options.table, options.env, options.env_config, options.seeds, options.steps, options.config)
    unknown = set(options.rows or ()) - {trial.row for trial in found}
    if unknown:
        parser.error(f"{options.table} has no row {min(unknown)!r}; it has {', '.join(TABLES[options.table].labels)}.")
    found = [trial for trial in found if options.rows is None or trial.row in options.rows]
    status = 0 if options.no_run else run(found, storage, options.table, options.steps, options.cpus)

    curves = load(found, storage)
    curves = curves[curves["env steps"] <= 1.1 * options.steps]
    left = [trial for trial, _ in pending(found, storage, options.steps)]
    settings = json.dumps(found[0].config.get("env_config", {}))
    caption = f"{options.env} {settings}, {options.steps:,} env steps, {options.seeds} seed{'s' * (options.seeds > 1)}."
    if options.config:
        caption += f" With {json.dumps(options.config)}."
    if options.env != "smac":
        caption += " This is not SMAC: compare the rows, not the figures, with the paper's."
    if left:
        caption += " Not finished: " + ", ".join(f"{trial.row} seed {trial.seed}" for trial in left) + "."
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(options.table, curves, caption, options.steps, options.env)
    (options.out / f"{options.table}.md").write_text(text)
    curves.to_csv(options.out / f"{options.table}.csv", index=False, float_format="%.4f")
    draw(options.table, curves, caption, options.out / f"{options.table}.png")
    print(text)
    sys.exit(status)


if __name__ == "__main__":
    main()
