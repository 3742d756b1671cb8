#!/usr/bin/env bash
# Package:  pettingzoo 1.27.0, butterfly/knights_archers_zombies_v11, parallel_env.
# Promised: its documentation says that a knight is rewarded 1 point when its mace hits and kills a zombie, and an
#           archer when one of its arrows does. A ParallelEnv's step() returns the rewards of that step.
# Happens:  only the first living agent (archer_0 at the start) is paid in the step of its kill. All others are paid
#           one step later, and what they kill in an episode's last step is never paid.
# Matters:  the reward of an action arrives with the next observation and action, for all agents but one, and a team's
#           return can be smaller than its kills.
# Upstream: Farama-Foundation/PettingZoo issue 291 (closed in 2021) was about rewards repeated after a kill; none
#           about late or lost ones was found.
#
# Exits with 0 if this still happens, with 1 if it has changed. Takes one to two minutes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pettingzoo[butterfly]==1.27.0"
SDL_VIDEODRIVER=dummy PYGAME_HIDE_SUPPORT_PROMPT=1 "$work/venv/bin/python" -W ignore - <<'EOF'
import sys
from collections import Counter

import pettingzoo
from pettingzoo.butterfly import knights_archers_zombies_v11

ATTACK = 4


def play(seed, max_cycles):
    """All attack all the time. Yields, for each step, each agent's kills in it (the env's own score) and rewards."""
    env = knights_archers_zombies_v11.parallel_env(max_cycles=max_cycles)
    env.reset(seed=seed)
    agents = env.unwrapped.agent_map
    while env.agents:
        alive = list(env.agents)
        _, rewards, *_ = env.step(dict.fromkeys(alive, ATTACK))
        yield {agent: agents[agent].score for agent in alive}, rewards
    env.close()


at_once, late, last_kill = Counter(), Counter(), None
for seed in range(15):
    before = {}
    for step, (kills, rewards) in enumerate(play(seed, max_cycles=300), start=1):
        at_once.update({agent: n for agent, n in kills.items() if n and rewards[agent] == n})
        late.update({agent: n for agent, n in before.items() if n and rewards.get(agent) == n})
        if last_kill is None and kills.get("archer_1"):
            last_kill = seed, step
        before = kills

seed, steps = last_kill
cut = list(play(seed, max_cycles=steps))  # the same episode, which its limit ends at archer_1's kill
kills, paid = (sum(part.get("archer_1", 0) for part in parts) for parts in zip(*cut, strict=True))
print(f"pettingzoo {pettingzoo.__version__}, knights_archers_zombies_v11, 15 episodes")
print("expected: each kill is paid in the step in which it happens")
print(f"seen:     paid at once {dict(at_once)}, a step late {dict(late)}")
print(f"          with max_cycles={steps}, so that a kill of archer_1 is in the last step: {kills} kill, {paid} paid")
first, others = "archer_0", ("archer_1", "knight_0", "knight_1")
sys.exit(0 if at_once[first] and not late[first] and any(late[agent] for agent in others) and paid < kills else 1)
EOF
