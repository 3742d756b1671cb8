"""The tables and figures of the paper that `rllib reproduce` runs; their grids are `tuned_examples/paper/NAME.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    def legend(self, row: str) -> str:
        """A row in a word or two, for a figure."""
        return " ".join(head if cell == "✓" else cell for head, cell in zip(self.header, self.labels[row], strict=True) if cell)


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
