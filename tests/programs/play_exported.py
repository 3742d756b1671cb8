"""Plays recorded episodes with an exported policy where some packages cannot be imported.

    play_exported.py FOLDER EPISODES.npz PACKAGE...

Loading the policy must not unpickle anything that names a class or function, which is how a pickle runs code.
The episodes hold what RLlib's policy saw and did: obs ``[T, N, O]``, action_mask, actions ``[T, N]`` and q
``[T, N, A]``. Where PettingZoo may be imported, the env must be Predator-Prey, and a game of it is played.
"""

import pickle
import sys
from pathlib import Path

folder, recorded, *barred = sys.argv[1:]
sys.modules |= dict.fromkeys(barred)

import numpy as np  # noqa: E402

from rllib_ddn.deploy import ExportedPolicy  # noqa: E402

unpickled = []
sys.addaudithook(lambda event, details: unpickled.append(details) if event == "pickle.find_class" else None)
pickle.loads(pickle.dumps(Path))
assert unpickled.pop(), "the hook sees nothing"
episode = np.load(recorded)
team = ExportedPolicy(folder)
members = [ExportedPolicy(folder, agent=agent) for agent in team.agents]
assert not unpickled, unpickled
for obs, mask, actions, q in zip(*(episode[name] for name in ("obs", "action_mask", "actions", "q")), strict=True):
    assert team.act(obs, mask).tolist() == actions.tolist()
    np.testing.assert_allclose(team.q_values[0], q, atol=1e-5)
    assert [member.act(o, m) for member, o, m in zip(members, obs, mask, strict=True)] == actions.tolist()
if "pettingzoo" not in barred:
    from rllib_ddn.envs import predator_prey

    env = predator_prey.parallel_env(**team.description["env_config"])
    observations, _ = env.reset(seed=1)
    team.reset()
    steps = 0
    while env.agents:
        observations, *_ = env.step(team.act(observations))
        steps += 1
    print("a game of", steps)
imported = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
assert not imported & {*barred, "ray"}, imported
print("played", len(episode["obs"]))
