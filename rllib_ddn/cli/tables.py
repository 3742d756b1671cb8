"""The tables that `rllib reproduce` runs: the paper's, with the grids `tuned_examples/paper/NAME.yaml` and the paper's
settings, and comparisons of this package's own, with the grids `tuned_examples/comparisons/NAME.yaml` and the best settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Table:
    """A table.

    Attributes:
        title: what it compares.
        header: names of the columns whose cells name an experiment. Where there are two in a comparison, each value of
            the first has a panel of its own in the figure.
        labels: of each experiment of its grid, these cells.
        paper: the paper's figures: of each SMAC map, one for each experiment, "" where it has none.
        note: what the reader must know of the figures.
        folder: of the grid, "paper" or "comparisons".
        bases: of each row with DDN, the row of its base algorithm alone.
    """

    title: str
    header: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    paper: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    folder: str = "paper"
    bases: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_panels(self) -> bool:
        return self.folder == "comparisons" and len(self.header) == 2

    def panel(self, row: str) -> str:
        """The title of the panel that shows a row; "" where there is one panel only."""
        return self.labels[row][0] if self.has_panels else ""

    def legend(self, row: str) -> str:
        """A row in a word or two, for a figure."""
        if self.has_panels:
            return self.labels[row][1]
        return " ".join(
            head if cell == "✓" else cell for head, cell in zip(self.header, self.labels[row], strict=True) if cell
        )


HOSTS = {
    "vdn": "VDN",
    "qmix": "QMIX",
    "qatten": "Qatten",
    "qplex": "QPLEX",
    "cwqmix": "CW-QMIX",
    "owqmix": "OW-QMIX",
    "qtran": "QTRAN",
}


def _with_and_without_ddn(*mixers: str) -> dict[str, tuple[str, ...]]:
    pairs = {mixer: {mixer: HOSTS[mixer], f"ddn_{mixer}": f"DDN on {HOSTS[mixer]}"} for mixer in mixers}
    return {row: (HOSTS[mixer], label) for mixer, rows in pairs.items() for row, label in rows.items()}


def _on_maps(title: str, maps: tuple[str, ...]) -> Table:
    """DDN on QMIX beside QMIX on some maps of SMAX."""
    labels = {f"{name}_{algo.lower()}": (name, algo) for name in maps for algo in ("QMIX", "DDN")}
    bases = {f"{name}_ddn": f"{name}_qmix" for name in maps}
    return Table(title, ("Map", "Algorithm"), labels, folder="comparisons", bases=bases)


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
    "figure4": Table(
        "DDN and the value decompositions", ("Algorithm",), {k: (v,) for k, v in HOSTS.items()} | {"ddn": ("DDN",)}
    ),
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
    "small": Table("The small Predator-Prey of the README", ("Algorithm",), {"ddn": ("DDN",)}, folder="comparisons"),
    "maps": _on_maps("DDN and QMIX on SMAX, a million steps", ("2s3z", "3s5z", "3s_vs_5z", "5m_vs_6m")),
    "hard_maps": _on_maps(
        "DDN and QMIX on harder maps of SMAX, two million steps",
        ("3s5z_vs_3s6z", "6h_vs_8z", "smacv2_5_units", "smacv2_10_units"),
    ),
    "mixers": Table(
        "Other mixers with and without DDN on SMAX's 2s3z",
        ("Mixer", "Algorithm"),
        _with_and_without_ddn("vdn", "qplex"),
        folder="comparisons",
        bases={"ddn_vdn": "vdn", "ddn_qplex": "qplex"},
    ),
    "smax": Table(
        "DDN and its host on SMAX",
        ("Map", "Algorithm"),
        {
            f"{name}_{algo.lower()}{twice}": (f"{name}, twice the updates" if twice else name, algo)
            for twice in ("", "_twice")
            for name in ("2s3z", "3s5z")
            for algo in ("QMIX", "DDN")
        }
        | {
            f"2s3z_{row}_twice": ("2s3z, other hosts", label)
            for host in ("vdn", "qplex")
            for row, label in ((host, HOSTS[host]), (f"ddn_{host}", f"DDN on {HOSTS[host]}"))
        },
        folder="comparisons",
    ),
    "smax_hard": Table(
        "DDN and its host on SMAX, a million steps",
        ("Map", "Algorithm"),
        {
            "5m_vs_6m_qmix": ("5m_vs_6m", "QMIX"),
            "5m_vs_6m_ddn": ("5m_vs_6m", "DDN"),
            "5m_vs_6m_qmix_twice": ("5m_vs_6m", "QMIX, twice the updates"),
            "5m_vs_6m_ddn_no_idm": ("5m_vs_6m, other DDNs", "DDN without IDM"),
            "5m_vs_6m_ddn_raw": ("5m_vs_6m, other DDNs", "DDN, raw state"),
            "5m_vs_6m_ddn_mixture": ("5m_vs_6m, other DDNs", "DDN, mixture acts"),
            "5m_vs_6m_vdn": ("5m_vs_6m, host VDN", "VDN"),
            "5m_vs_6m_ddn_vdn": ("5m_vs_6m, host VDN", "DDN on VDN"),
            "3s_vs_5z_qmix": ("3s_vs_5z", "QMIX"),
            "3s_vs_5z_ddn": ("3s_vs_5z", "DDN"),
            "3s5z_qmix": ("3s5z", "QMIX"),
            "3s5z_ddn": ("3s5z", "DDN"),
            "2s3z_qmix": ("2s3z", "QMIX"),
            "2s3z_ddn": ("2s3z", "DDN"),
        },
        folder="comparisons",
    ),
    "sight": Table(
        "Predator-Prey where the state tells more than the agents see",
        ("Question", "Algorithm"),
        {
            "qmix": ("host QMIX", "QMIX"),
            "ddn": ("host QMIX", "DDN on QMIX"),
            "ddn_raw": ("other fusions", "DDN, raw state"),
            "ddn_concatenated": ("other fusions", "DDN, z beside"),
            "vdn": ("host VDN", "VDN"),
            "ddn_vdn": ("host VDN", "DDN on VDN"),
            "ctds": ("other methods", "CTDS"),
            "ptde": ("other methods", "PTDE"),
            "igmda": ("other methods", "IGM-DA"),
            "ddn_leader_first": ("other methods", "DDN, leader first"),
            "ddn_block": ("one loss", "DDN, L_B alone"),
            "ddn_q": ("one loss", "DDN, L_Q alone"),
            "ddn_feature": ("one loss", "DDN, L_F alone"),
            "ddn_no_idm": ("intrinsic reward", "DDN without IDM"),
            "ddn_mask_25": ("intrinsic reward", "DDN, mask 0.25"),
        },
        bases={"ddn": "qmix", "ddn_vdn": "vdn"},
        folder="comparisons",
    ),
    "predator_prey": Table(
        "Predator-Prey with a penalty: hosts before and after DDN",
        ("Host", "Algorithm"),
        _with_and_without_ddn("vdn", "qmix", "qplex", "owqmix"),
        bases={f"ddn_{host}": host for host in ("vdn", "qmix", "qplex", "owqmix")},
        folder="comparisons",
    ),
}
