"""The edge and the wiring: gateways, HTTP API, auth, configuration, command line, start and drain.

This is the only folder that knows all the others; nothing but tests and benchmarks imports it.
"""
