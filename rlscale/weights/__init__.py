"""Weights between Hugging Face and Megatron, and from the trainer to the engines."""
