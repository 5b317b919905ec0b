"""The benchmark: the gateway against its peers on one machine, `python -m benchmarks`. README.md tells how to read it.

Nothing here is part of the gateway, and nothing here imports it: what is measured is a process behind a port.
"""
