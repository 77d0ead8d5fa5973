"""The load generator of `hubbub bench`: one process plays thousands of clients, and starts what it loads.

Owns: an epoll loop, client connections over each wire, the servers under test and what they cost. It uses the
protocol's Structs and nothing else of hubbub; the workloads (bench/one_to_one.py and its neighbours) say what
is sent, bench/report/ what is shown.
"""
