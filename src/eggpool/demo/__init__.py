"""The demonstration: a scripted provider with three accounts on loopback, the real pool in front of it, some traffic.

What may live here: what is asked, whether answers and books are right, and what is told about it. What may not:
anything that a pool or a provider does.
"""

from eggpool.demo.show import run

__all__ = ["run"]
