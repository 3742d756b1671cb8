"""The hosts of DDN by themselves: value decomposition without distillation and without IDM.

They are what the paper compares with (Table 1): one network on the local information
``z_i = (o_i, u_i, i)``, trained through a mixer, on the same sampling path, replay and learner.
"""

from __future__ import annotations

from ray.rllib.utils.annotations import override

from rllib_ddn.ddn import DDN, DDNConfig
from rllib_ddn.ddn_torch_model import AGENT


class HostConfig(DDNConfig):
    """Configures a host alone; has the keys of :class:`DDNConfig` that are not about distillation."""

    MIXER = ""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.mixer = self.MIXER
        self.distillation = False
        self.intrinsic_reward = False
        self.behaviour_network = AGENT


class VDNConfig(HostConfig):
    """Configures :class:`VDN`."""

    MIXER = "vdn"

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or VDN)


class VDN(DDN):
    """Value-Decomposition Networks (Sunehag et al. 2018)."""

    @classmethod
    @override(DDN)
    def get_default_config(cls) -> VDNConfig:
        return VDNConfig()


class QMIXConfig(HostConfig):
    """Configures :class:`QMIX`."""

    MIXER = "qmix"

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or QMIX)


class QMIX(DDN):
    """QMIX (Rashid et al. 2020)."""

    @classmethod
    @override(DDN)
    def get_default_config(cls) -> QMIXConfig:
        return QMIXConfig()
