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
)
from rllib_ddn.networks.idm import InternalDistillationModule
from rllib_ddn.networks.mixers import MIXERS, Mixer, TeamSizes, TeamValues, greedy_actions

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
    "Mixer",
    "PersonalizationFusionBlock",
    "RawFusion",
    "TeamSizes",
    "TeamValues",
    "greedy_actions",
]
