"""The paper's six maps and their sizes: agents, enemies, actions, obs, state, limit."""

SIZES = {
    "3s5z": (8, 8, 14, 128, 216, 150),
    "2s_vs_1sc": (2, 1, 7, 17, 27, 300),
    "3s_vs_5z": (3, 5, 11, 48, 68, 250),
    "5m_vs_6m": (5, 6, 12, 55, 98, 70),
    "3s5z_vs_3s6z": (8, 9, 15, 136, 230, 170),
    "MMM2": (10, 12, 18, 176, 322, 180),
}


def get_smac_map_registry():
    return {name: {"n_agents": sizes[0], "n_enemies": sizes[1], "limit": sizes[5]} for name, sizes in SIZES.items()}
