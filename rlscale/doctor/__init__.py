"""Whether machines are ready for a run: facts that each machine tells, and checks that judge them. No torch, no Ray."""
