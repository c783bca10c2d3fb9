"""What changed from one version of the weights to the next: encoded, published in a folder, patched into a copy."""
