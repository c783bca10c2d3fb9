"""rlscale: reinforcement learning of language models at scale, declared in YAML and run by real engines."""

__version__ = "0.1.0"
