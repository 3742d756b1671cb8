"""The networks of DDN in plain torch. Nothing in this package imports Ray."""

from rllib_ddn.networks.agent import AgentNetwork, LocalInput
from rllib_ddn.networks.fusion import (
    IndependentObservationBlock,
    PersonalizationFusionBlock,
    RawFusion,
)
from rllib_ddn.networks.idm import InternalDistillationModule

__all__ = [
    "AgentNetwork",
    "IndependentObservationBlock",
    "InternalDistillationModule",
    "LocalInput",
    "PersonalizationFusionBlock",
    "RawFusion",
]
