"""Tests of the benchmark: of its own parts, and of the peers it compares hubbub with."""
