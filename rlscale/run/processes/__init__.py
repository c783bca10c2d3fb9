"""The processes of a run: Ray, its actors and what is called on them, fork servers, signals."""
