"""One update of a value decomposition, of DDN and of the hosts alone, in plain torch. Nothing here imports Ray.

:mod:`rllib_ddn.learning.update` reads top to bottom; every other module is one of its steps.
"""
