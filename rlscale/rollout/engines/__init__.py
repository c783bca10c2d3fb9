"""Talking to engines: the client, how many requests they are given at once, and what their answers hold."""
