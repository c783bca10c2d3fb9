"""The rewards that come with rlscale."""
