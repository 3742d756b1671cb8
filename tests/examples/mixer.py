import torch

from rllib_ddn import DDNConfig, Mixer


class WeightedSum(Mixer):
    """Q_tot = sum_i exp(w_i) Q_i: monotone, so IGM holds."""

    def __init__(self, sizes, start=0.0):
        super().__init__(sizes)
        self.w = torch.nn.Parameter(torch.full((sizes.num_agents,), start))

    def forward(self, team):  # team.q [M, N]; team.state [M, S], team.best_q [M, N] and more are there, too
        return (team.q * self.w.exp()).sum(-1)

    def loss(self, team, target, greedy_value, valid):  # only to log a statistic
        loss, statistics = super().loss(team, target, greedy_value, valid)
        return loss, {**statistics, "largest_weight": self.w.detach().exp().max()}


config = DDNConfig().environment("predator_prey").training(mixer=WeightedSum, mixer_config={"start": 0.1})
