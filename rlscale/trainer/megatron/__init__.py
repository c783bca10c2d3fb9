"""The policy on Megatron-core: model, log-probs, steps, checkpoints. Import it after `Platform.install_megatron`."""
