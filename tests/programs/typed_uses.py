"""Right and wrong uses of the configs, for a type checker; nothing here runs. Wrong lines end in ``# wrong``."""

from typing import Any

from torch import Tensor, nn

from rllib_ddn import DDN, DDNConfig, IntrinsicReward, Leader, Mixer, QMIXConfig
from rllib_ddn.learning.batch import TrainBatch


class MyMixer(Mixer):
    pass


class MyReward(IntrinsicReward):
    pass


def targets(rewards: Tensor, values: Tensor, batch: TrainBatch, gamma: float) -> Tensor:
    return rewards


settings: dict[str, Any] = {"lr": 1e-3}
config: DDNConfig = DDNConfig().environment("predator_prey").training(mixer="qmix", mask_probability=0.75)
QMIXConfig().training(**settings).env_runners(num_env_runners=2).training(gamma=0.9)
QMIXConfig().training(mixer=MyMixer, mixer_config={"depth": 2}, lr=[[0, 1e-3], [100, 2e-4]], grad_clip=None, tau=1)
QMIXConfig().training(targets=targets, optimizer={"type": "adam", "betas": (0.9, 0.99)}, weight_averaging=None)
DDNConfig().training(distillation_terms={"more": ("kl", 0.5)}, q_loss="squared", state_fusion="package:MyLeader")
DDNConfig().training(intrinsic_reward=MyReward, behaviour_network="mixture", optimizer="rmsprop", follower_lr=1e-4)
DDNConfig().training(intrinsic_reward=False).training(leader_timesteps=1000).debugging(seed=1)
rate: float = config.mask_probability
config.mask_probability = 0.5

config.mask_probability = "often"  # wrong
DDNConfig().training(mask_probabilty=0.5)  # wrong
DDNConfig().training(mask_probability="often")  # wrong
DDNConfig().training(behaviour_network="teacher")  # wrong
DDNConfig().training(mixer=Leader)  # wrong
DDNConfig().training(mixer=nn.Linear)  # wrong
DDNConfig().training(mixer="vdn", lr="fast")  # wrong
DDNConfig().training(num_env_runners=2)  # wrong
DDNConfig().training(intrinsic_reward=None)  # wrong
DDNConfig().training(optimizer="sgd")  # wrong
DDNConfig().training(targets=3)  # wrong
DDNConfig().training(0.5)  # wrong
QMIXConfig().training(mask_probability=0.5)  # wrong
QMIXConfig().training(double_q=None)  # wrong
QMIXConfig().training(replay_buffer_config=5000)  # wrong
QMIXConfig().training(target_update_interval_episodes=0.5)  # wrong
DDN(config=DDNConfig().training(train_batch_size="32"))  # wrong
