"""How buckets of weights travel from the trainer's ranks to the engines: one module per way."""
