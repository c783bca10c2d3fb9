"""The policy on Megatron-core: model, attention, log-probs, steps, checkpoints. Import only after Platform.install_megatron."""
