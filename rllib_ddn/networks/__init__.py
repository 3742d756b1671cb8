"""The networks of DDN in plain torch. Nothing in this package imports Ray."""

from rllib_ddn.networks.agent import AgentNetwork, LocalInput
from rllib_ddn.networks.fusion import (
    IndependentObservationBlock,
    PersonalizationFusionBlock,
    RawFusion,
)
from rllib_ddn.networks.guiding import (
    STATE_FUSIONS,
    AgentOutput,
    GlobalGuidingNetwork,
    LocalAgentNetwork,
    LocalPolicyNetwork,
    greedy_actions,
)
from rllib_ddn.networks.idm import InternalDistillationModule
from rllib_ddn.networks.mixers import MIXERS

__all__ = [
    "MIXERS",
    "STATE_FUSIONS",
    "AgentNetwork",
    "AgentOutput",
    "GlobalGuidingNetwork",
    "IndependentObservationBlock",
    "InternalDistillationModule",
    "LocalAgentNetwork",
    "LocalInput",
    "LocalPolicyNetwork",
    "PersonalizationFusionBlock",
    "RawFusion",
    "greedy_actions",
]
