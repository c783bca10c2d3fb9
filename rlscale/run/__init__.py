"""The thin engine: places trainer, engines and rollout on Ray and drives the loop from first prompt to summary."""
