"""From recipe, options and command line to one typed tree, and back to a recipe."""
