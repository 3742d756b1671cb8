"""The hosts of DDN by themselves: value decomposition without distillation and without IDM.

They are what the paper compares with (Figure 4, Table 1): one network on the local information
``z_i = (o_i, u_i, i)``, trained through a mixer, on the same sampling path, replay and learner.
Each is a trainable of its name with a config class, ``QMIX`` with ``QMIXConfig``, say.
"""

from __future__ import annotations

from typing import Any

from rllib_ddn.ddn import DDN, DDNConfig
from rllib_ddn.ddn_torch_model import AGENT


class HostConfig(DDNConfig):
    """Configures a host alone; has the keys of :class:`DDNConfig` that are not about distillation."""

    MIXER = ""
    HOST: type[DDN]

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or self.HOST)
        self.mixer = self.MIXER
        self.distillation = False
        self.intrinsic_reward = False
        self.behaviour_network = AGENT


def _host(name: str, mixer: str, title: str) -> tuple[type[DDN], type[HostConfig]]:
    """An algorithm class and its config class, as RLlib wants one of each."""
    names: dict[str, Any] = {"__module__": __name__}
    config = type(f"{name}Config", (HostConfig,), {**names, "__doc__": f"Configures :class:`{name}`.", "MIXER": mixer})
    default = classmethod(lambda cls: config())
    config.HOST = type(name, (DDN,), {**names, "__doc__": title, "get_default_config": default})
    return config.HOST, config


VDN, VDNConfig = _host("VDN", "vdn", "Value-Decomposition Networks (Sunehag et al. 2018).")
QMIX, QMIXConfig = _host("QMIX", "qmix", "QMIX (Rashid et al. 2018, 2020b).")
Qatten, QattenConfig = _host("Qatten", "qatten", "Qatten (Yang et al. 2020).")
QPLEX, QPLEXConfig = _host("QPLEX", "qplex", "QPLEX (Wang et al. 2020).")
CWQMIX, CWQMIXConfig = _host("CWQMIX", "cwqmix", "Centrally-weighted QMIX (Rashid et al. 2020a).")
OWQMIX, OWQMIXConfig = _host("OWQMIX", "owqmix", "Optimistically-weighted QMIX (Rashid et al. 2020a).")
QTRAN, QTRANConfig = _host("QTRAN", "qtran", "QTRAN-base (Son et al. 2019).")

HOSTS = (VDN, QMIX, Qatten, QPLEX, CWQMIX, OWQMIX, QTRAN)
