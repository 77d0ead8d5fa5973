"""Tests of the gateways and of a whole node, through real sockets on 127.0.0.1."""
