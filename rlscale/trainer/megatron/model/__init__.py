"""The model that a rank computes with: architecture, layers, attention, router, heads."""
