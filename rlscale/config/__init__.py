"""The typed configuration: schema, checks, pass-through of engine options, recipes. Imports no torch."""
