"""One update of a value decomposition, of DDN or of its base algorithm alone, in plain torch. Nothing here imports Ray.

:mod:`rllib_ddn.learning.update` is the update from top to bottom; the other modules hold its parts.
"""

# Learners: each has one loss, one optimizer and one learning rate, which have its name.
HOST, FOLLOWER, INTRINSIC = LEARNERS = ("host", "follower", "intrinsic")
# The networks that can act: DDN's leader (GGN) and FOLLOWER (LPN), or the agent network of a host alone.
LEADER, AGENT = "leader", "agent"
