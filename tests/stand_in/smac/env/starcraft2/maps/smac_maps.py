"""The paper's six maps."""

from rllib_ddn.envs.smac import PAPER_MAPS

ENEMIES = {
    name: sizes.actions - 6 for name, sizes in PAPER_MAPS.items()
}  # an attack on each comes after six other actions


def get_smac_map_registry():
    return {
        name: {"n_agents": sizes.agents, "n_enemies": ENEMIES[name], "limit": sizes.limit}
        for name, sizes in PAPER_MAPS.items()
    }
