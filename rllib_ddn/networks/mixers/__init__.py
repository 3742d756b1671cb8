"""Mixing networks: from the agents' Q values to Q_tot. One file a mixer, one line in ``MIXERS``.

A mixer is an ``nn.Module`` made as ``Mixer(num_agents, state_dim, **mixer_config)`` and called
as ``mixer(q, state)``: ``q [..., N]`` are the Q values of the chosen actions, ``state [..., S]``
the global state, and the result ``[...]`` is Q_tot (paper, Equations 1 and 2).
"""

from __future__ import annotations

from torch import nn

from rllib_ddn.networks.mixers.qmix import QMixer
from rllib_ddn.networks.mixers.vdn import VDNMixer

MIXERS: dict[str, type[nn.Module]] = {
    "vdn": VDNMixer,
    "qmix": QMixer,
}
