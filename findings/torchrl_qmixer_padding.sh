#!/usr/bin/env bash
# Package:  torchrl 0.14.1 (with tensordict 0.14.3), QMixerLoss.
# Promised: LossModule, the base class, documents loss_mask_key: by default ("auto") a loss finds the validity masks
#           that TorchRL writes itself and leaves out the positions that they mark. split_trajectories() pads
#           trajectories to one length and writes such a mask, ("collector", "mask").
# Happens:  DQNLoss keeps the promise. QMixerLoss has the attribute and ignores the mask: padded steps count in the
#           mean, as steps with observation 0, action 0, reward 0 that have not terminated. With one agent and a VDN
#           mixer both losses are the same function; on padded trajectories they differ.
# Matters:  QMIX and VDN on padded trajectories learn from steps that never happened, the more of them the more the
#           episodes' lengths differ. Flatten the batch and select by the mask before the loss.
# Upstream: pytorch/rl issue 3866 asked for masks in every loss and was closed as done (pull requests 3888 and 4057);
#           their lists of losses leave QMixerLoss out. No issue about QMixerLoss was found.
#
# Exits with 0 if this still happens, with 1 if it has changed. Most of its time goes into installing torch, whose CPU
# build is enough.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet torchrl==0.14.1 tensordict==0.14.3
"$work/venv/bin/python" -W ignore - <<'EOF'
import sys

import torch
import torchrl
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors.utils import split_trajectories
from torchrl.modules import QValueModule, SafeSequential, VDNMixer
from torchrl.objectives import DQNLoss, ValueEstimators
from torchrl.objectives.multiagent import QMixerLoss

STEPS, ACTIONS, OBS = 8, 3, 4


def network():
    torch.manual_seed(1)
    return nn.Linear(OBS, ACTIONS)


def dqn_loss():
    values = TensorDictModule(network(), ["observation"], ["action_value"])
    return DQNLoss(SafeSequential(values, QValueModule(action_space="categorical")), action_space="categorical")


def qmixer_loss():
    observation, action, value, chosen = (
        ("agents", key) for key in ("observation", "action", "action_value", "chosen_action_value")
    )
    choose = QValueModule(action_space="categorical", action_value_key=value, out_keys=[action, value, chosen])
    mixer = TensorDictModule(VDNMixer(n_agents=1, device="cpu"), [chosen], ["chosen_action_value"])
    values = TensorDictModule(network(), [observation], [value])
    return QMixerLoss(SafeSequential(values, choose), mixer, action_space="categorical")


def trajectories():
    """One agent's two terminated trajectories of 2 and 6 steps, one behind the other, under both losses' keys."""
    random = torch.Generator().manual_seed(0)
    observation, following = torch.randn(2, STEPS, OBS, generator=random)
    action = torch.randint(ACTIONS, (STEPS,), generator=random)
    reward = 4 + torch.randn(STEPS, 1, generator=random)
    done = torch.zeros(STEPS, 1, dtype=torch.bool)
    done[[1, 7]] = True
    agents = TensorDict({"observation": observation[:, None], "action": action[:, None]}, [STEPS, 1])
    following_agents = TensorDict({"observation": following[:, None]}, [STEPS, 1])
    after = {"observation": following, "agents": following_agents, "reward": reward, "done": done}
    return TensorDict(
        {
            "observation": observation,
            "action": action,
            "agents": agents,
            "collector": TensorDict({"traj_ids": torch.tensor([0] * 2 + [1] * 6)}, [STEPS]),
            "next": TensorDict({**after, "terminated": done.clone()}, [STEPS]),
        },
        [STEPS],
    )


flat, padded = trajectories(), split_trajectories(trajectories())
print(f"torchrl {torchrl.__version__}; trajectories of 2 and 6 steps, padded to {list(padded.shape)}")
print("expected: the same loss on the 8 steps and on the padded trajectories, whose mask leaves the same 8 steps")
kept = {}
for loss in (dqn_loss(), qmixer_loss()):
    loss.make_value_estimator(ValueEstimators.TD0, gamma=0.9)
    on_flat, on_padded = (loss(batch.clone())["loss"].item() for batch in (flat, padded))
    name = type(loss).__name__
    kept[name] = abs(on_flat - on_padded) < 1e-4
    print(f"seen:     {name}, loss_mask_key {loss.loss_mask_key!r}: {on_flat:.3f} on the steps, {on_padded:.3f} padded")
sys.exit(0 if kept == {"DQNLoss": True, "QMixerLoss": False} else 1)
EOF
