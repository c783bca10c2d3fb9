"""What a key of the configuration means, where its value comes from, and what reads it."""
