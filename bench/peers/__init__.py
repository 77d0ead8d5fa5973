"""What hubbub is compared with: other servers that speak the few commands the workloads need.

Each is a program of its own, started by `bench.load.target` as a process. It keeps its data in one directory
and prints one JSON line, {"event": "started", "port": N}, when it serves. It may import `protocol` for the
language, and nothing else of hubbub: what is measured is its own.
"""
