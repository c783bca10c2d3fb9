"""What a run tells about itself: metrics, trackers, progress on the terminal, time accounting, samples, the report.

Leaves out: computing the metrics (trainer, rollout) and deciding when to log (run). Nothing here leaves the machine
unless the user turns a tracker online.
"""
