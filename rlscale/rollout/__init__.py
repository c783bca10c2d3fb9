"""The client that talks to engines, and the service that keeps them full."""
