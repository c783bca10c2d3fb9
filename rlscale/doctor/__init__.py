"""Whether machines are ready for a run: facts that each machine tells, and checks that judge them.

No Ray, and torch only where the network between machines is measured.
"""
