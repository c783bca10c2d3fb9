"""What `python -m rlscale` does besides running a recipe: a file per command."""
