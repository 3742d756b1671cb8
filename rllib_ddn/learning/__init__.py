"""One update of a value decomposition, of DDN or of its base algorithm alone, in plain torch. Nothing here imports Ray.

:mod:`rllib_ddn.learning.update` is the update from top to bottom; the other modules hold its parts.
"""

# What an optimizer trains: its loss, optimizer, gradient norm and learning rate have the learner's name.
HOST, FOLLOWER, INTRINSIC = LEARNERS = ("host", "follower", "intrinsic")
# The networks that can act, by name: the leader (GGN) and the FOLLOWER (LPN) of DDN; or the one network of a host alone.
LEADER, AGENT = "leader", "agent"
