from rllib_ddn import QMIXConfig


def two_steps(rewards, values, batch, gamma):
    """y(t) = r(t) + gamma r(t + 1) + gamma^2 Q_tot(t + 2); where the episode ends before, what is left of it."""
    one_step = rewards + gamma * (1 - batch.terminated) * values[batch.next]  # [M]
    following = one_step.where(batch.valid > 0, values)  # a final observation has its value, and no step after it
    return rewards + gamma * (1 - batch.terminated) * following[batch.next]


config = QMIXConfig().environment("predator_prey").training(targets=two_steps)
