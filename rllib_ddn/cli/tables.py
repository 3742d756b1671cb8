"""The tables that `rllib reproduce` writes, which `tables.yaml` describes, from the evaluations of a grid's trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rllib_ddn.cli.curves import area, figure_of, final, iqm, markdown_table, stratified, transfer
from rllib_ddn.cli.show import EXAMPLES

TABLES: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text())


@dataclass
class Table:
    """A table, with the fields of `tables.yaml`.

    Attributes:
        grid: the file of its experiments, in the folder "paper" or "comparisons".
    """

    grid: Path
    title: str
    header: list[str]
    rows: dict[str, list[str]]
    paper: dict[str, list[str]] = field(default_factory=dict)
    note: str = ""
    bases: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str) -> Table:
        """The table of a name.

        Raises:
            ValueError: there is none.
        """
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; there are {', '.join(TABLES)}.")
        (grid,) = (path for kind in ("paper", "comparisons") if (path := EXAMPLES / kind / f"{name}.yaml").is_file())
        return cls(grid, **TABLES[name])

    @property
    def is_papers(self) -> bool:
        return self.grid.parent.name == "paper"

    def panel_and_legend(self, row: str) -> tuple[str, str]:
        """The panel of the figure that shows a row, "" where there is one panel only; and the row's label."""
        cells = self.rows[row]
        if not self.is_papers and len(cells) == 2:
            return cells[0], cells[1]
        labels = (head if cell == "✓" else cell for head, cell in zip(self.header, cells, strict=True) if cell)
        return "", " ".join(labels)

    def markdown(self, every: pd.DataFrame, caption: str, steps: int, where: str) -> str:
        """The table in Markdown; one of the paper's with this run's figures before the paper's.

        Args:
            every: the evaluations, see :mod:`rllib_ddn.cli.curves`.
            steps: env steps of each training.
            where: the envs.
        """
        name = self.grid.stem
        parts = [f"**{name[:-1].capitalize()} {name[-1]}. {self.title}.**" if self.is_papers else f"**{self.title}.**"]
        parts += [caption, self.note] if self.note else [caption]
        if self.is_papers:
            parts.append(self._beside_papers(every, steps, where))
        else:
            parts += [self._by_quarters(every, steps), *self._pairs(every, steps)]
        return "\n\n".join(parts) + "\n"

    def _beside_papers(self, every: pd.DataFrame, steps: int, where: str) -> str:
        """A line for each row: the evaluations in the last tenth of the steps."""
        header = [*self.header, f"{where}: leader or host", f"{where}: follower", "follower / leader"]
        lines = []
        for k, (row, label) in enumerate(self.rows.items()):
            host, leaders, followers = (final(every, row, n, 0.9 * steps) for n in ("", "leader", "follower"))
            networks = set(every[every["row"] == row]["network"])
            missing = f"no evaluation after {0.9 * steps:,.0f} steps" if networks else "not run"
            ratio = "-"
            if len(leaders) and len(followers):
                positive = iqm(leaders) > 0 and iqm(followers) >= 0
                ratio = f"{iqm(followers) / iqm(leaders):.0%}" if positive else "not positive"
            best = figure_of(host if len(host) else leaders) or missing
            follower = figure_of(followers) or ("no follower" if networks == {""} else missing)
            lines.append([*label, best, follower, ratio, *(figures[k] for figures in self.paper.values())])
        return markdown_table([*header, *(f"paper: {name}" for name in self.paper)], lines)

    def _by_quarters(self, every: pd.DataFrame, steps: int) -> str:
        """A line for each network of each row: the evaluations from a tenth of the steps before each quarter's end to a
        hundredth after it; of the last, all that follow."""
        quarters = [round(steps * k / 4) for k in (1, 2, 3, 4)]
        ends = [f"{quarter / 1000:,.0f}k" for quarter in quarters]
        lines = []
        for row, label in self.rows.items():
            for network in ("", "leader", "follower"):
                values = [final(every, row, network, end - 0.1 * steps, end + 0.01 * steps) for end in quarters[:3]]
                values.append(final(every, row, network, 0.9 * steps))
                if any(map(len, values)):
                    figures = map(figure_of, [*values, area(every, row, network)])
                    lines.append([*label, network, *figures, ", ".join(f"{value:.2f}" for value in values[-1])])
        return markdown_table([*self.header, "network", *ends, "over training", "single seeds at the end"], lines)

    def _pairs(self, every: pd.DataFrame, steps: int) -> list[str]:
        """Of each DDN: how steadily its follower has what the leader has, and both beside the base algorithm, paired by
        seed."""
        gains: dict[str, list[Any]] = {"leader": [], "follower": []}
        lines = []
        for row, label in self.rows.items():
            if final(every, row, "follower", 0).empty:
                continue
            cells, ratios = list(label), transfer(every, row)
            if len(ratios):
                cells += [
                    f"{ratios.mean():.3f}",
                    f"{(ratios >= 0.97).mean():.0%} of {len(ratios)}",
                    f"{ratios.min():.2f}",
                ]
            else:
                cells += ["-", "0 evaluations", "-"]
            base = self.bases.get(row, "")
            for network, gained in gains.items() if self.bases else ():
                end = final(every, row, network, 0.9 * steps) - final(every, base, "", 0.9 * steps)
                mean = (area(every, row, network) - area(every, base, "")).dropna().to_numpy()
                gained.append(mean)
                cells += [figure_of(mean), figure_of(end.dropna())]
            lines.append(cells)
        if not lines:
            return []
        header = [*self.header, "follower / leader", "at least 0.97", "lowest"]
        about = "Follower / leader: mean over the evaluations in which the leader wins 0.7 or more "
        about += "(of returns: has 0.7 of the best)."
        if self.bases:
            header += [f"{network} - base, {what}" for network in gains for what in ("over training", "at the end")]
            about += " Differences to the base algorithm are paired by seed."
        text = [about, markdown_table(header, lines)]
        if len(lines) > 1 and self.bases:
            told = ", ".join(f"{network} {stratified(gained)}" for network, gained in gains.items())
            text.append(f"Difference over training, all rows, with a stratified bootstrap interval: {told}.")
        return text
