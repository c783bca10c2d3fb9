"""`run.in_process`: the parts of a run in the process of its loop, where `breakpoint()` finds a terminal."""
