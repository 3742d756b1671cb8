from torch import nn

from rllib_ddn import DDNConfig, IntrinsicReward
from rllib_ddn.losses import masked_mean


class ReconstructionError(IntrinsicReward):
    """A state is new where an autoencoder fails on it."""

    def __init__(self, sizes, **options):
        super().__init__(sizes, **options)
        self.autoencoder = nn.Sequential(nn.Linear(sizes.state_dim, 8), nn.ReLU(), nn.Linear(8, sizes.state_dim))

    def novelty(self, batch):  # batch.state [M, S]
        return (self.autoencoder(batch.state) - batch.state).square().mean(-1)

    def loss(self, batch):
        loss = masked_mean(self.novelty(batch), batch.valid)
        return loss, {"loss_reconstruction": loss.detach()}


config = DDNConfig().environment("predator_prey").training(intrinsic_reward=ReconstructionError)
