"""The networks in plain torch. Nothing here imports Ray."""

from rllib_ddn.networks.agent import AgentNetwork, AgentOutput, LocalAgent, LocalInput, TeamNetwork
from rllib_ddn.networks.averaging import AveragedNetworks
from rllib_ddn.networks.fusion import IndependentObservationBlock, PersonalizationFusionBlock, RawFusion
from rllib_ddn.networks.idm import InternalDistillationModule
from rllib_ddn.networks.leaders import LEADERS, Follower, GlobalGuidingNetwork, Leader, LocalPolicyNetwork
from rllib_ddn.networks.mixers import MIXERS, Mixer, TeamSizes, TeamValues, greedy_actions

__all__ = [
    "LEADERS",
    "MIXERS",
    "AgentNetwork",
    "AgentOutput",
    "AveragedNetworks",
    "Follower",
    "GlobalGuidingNetwork",
    "IndependentObservationBlock",
    "InternalDistillationModule",
    "Leader",
    "LocalAgent",
    "LocalInput",
    "LocalPolicyNetwork",
    "Mixer",
    "PersonalizationFusionBlock",
    "RawFusion",
    "TeamNetwork",
    "TeamSizes",
    "TeamValues",
    "greedy_actions",
]
