import torch
from torch import nn

from rllib_ddn import DDNConfig, Follower, Leader


class GatedFollower(Follower):
    """o_hat_i = sigmoid(U z_i) * V o_i."""

    def make_fusion(self, sizes, embed_dim, hyper_dim):
        return nn.ModuleDict(
            {"gate": nn.Linear(sizes.local_dim, embed_dim), "value": nn.Linear(sizes.obs_dim, embed_dim)}
        )

    def fuse(self, z):  # [M, N, Z] to [M, N, D]; the observations are z's first columns
        return torch.sigmoid(self.fusion["gate"](z)) * self.fusion["value"](z[..., : self.obs_dim])


class GatedLeader(Leader):
    """S_hat_i = sigmoid(U z_i) * V S."""

    follower = GatedFollower

    def make_fusion(self, sizes, embed_dim, hyper_dim):
        return nn.ModuleDict(
            {"gate": nn.Linear(sizes.local_dim, embed_dim), "value": nn.Linear(sizes.state_dim, embed_dim)}
        )

    def fuse(self, z, state):  # [M, N, Z] and [M, S] to [M, N, D]
        return torch.sigmoid(self.fusion["gate"](z)) * self.fusion["value"](state).unsqueeze(1)


config = DDNConfig().environment("predator_prey").training(state_fusion=GatedLeader)
