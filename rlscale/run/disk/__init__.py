"""What a run keeps on disk: its folder, checkpoints, records, the results of its stages."""
