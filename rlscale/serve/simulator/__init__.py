"""Engines without a model: SGLang's HTTP protocol over a seeded model of time, in real or in virtual time."""
