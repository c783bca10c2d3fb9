"""Folders of models: fetched, made, shared between runs, and what engines start from."""
