"""Engines: SGLang servers and the router as supervised processes, and the blocking calls that one engine answers.

`Supervisor` starts them, each below a guard process that ends all of it when the supervisor, the guard or the server
dies. On the CPU engines are forked from a `ForkServer`. `EngineReceiver` sends an engine its weights and control
requests, `RouterClient` tells the router its workers. Generating is the business of `rlscale.rollout`. SGLang itself is
imported only in the servers' own processes and in the one that they are forked from.
"""
