"""The inside of a trainer rank: the objective, and under `megatron/` everything that touches Megatron-core."""
