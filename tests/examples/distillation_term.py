import torch

from rllib_ddn import DDNConfig, DistillationTerm
from rllib_ddn.losses import masked_mean
from rllib_ddn.networks import greedy_actions


class AbsoluteTerm(DistillationTerm):
    """How far the follower's Q values are from the leader's, and how often both choose the same action."""

    def __call__(self, follower, leader, batch):
        difference = torch.where(batch.action_mask, follower.q - leader.q.detach(), 0.0)  # [M, N, A]
        same = greedy_actions(follower.q, batch.action_mask) == greedy_actions(leader.q, batch.action_mask)  # [M, N]
        loss = masked_mean(difference.abs().sum((-2, -1)), batch.valid)
        return loss, {"same_actions": masked_mean(same.float().mean(-1), batch.valid)}


config = DDNConfig().environment("predator_prey").training(distillation_terms={"absolute": (AbsoluteTerm, 0.5)})
