"""Mixing networks: from the agents' Q values to Q_tot. Each has one file and one line in ``MIXERS``."""

from __future__ import annotations

from rllib_ddn.networks.mixers.mixer import Mixer, TeamSizes, TeamValues, greedy_actions
from rllib_ddn.networks.mixers.qatten import QattenMixer
from rllib_ddn.networks.mixers.qmix import QMixer
from rllib_ddn.networks.mixers.qplex import QPLEXMixer
from rllib_ddn.networks.mixers.qtran import QTRANMixer
from rllib_ddn.networks.mixers.vdn import VDNMixer
from rllib_ddn.networks.mixers.weighted_qmix import CWQMixer, OWQMixer

MIXERS: dict[str, type[Mixer]] = {
    "vdn": VDNMixer,
    "qmix": QMixer,
    "qatten": QattenMixer,
    "qplex": QPLEXMixer,
    "cwqmix": CWQMixer,
    "owqmix": OWQMixer,
    "qtran": QTRANMixer,
}

__all__ = ["MIXERS", "Mixer", "TeamSizes", "TeamValues", "greedy_actions"]
