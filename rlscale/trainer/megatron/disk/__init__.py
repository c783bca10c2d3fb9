"""Models on disk: distributed checkpoints, Hugging Face folders, and the way from one to the other."""
