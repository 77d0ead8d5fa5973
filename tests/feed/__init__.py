"""Tests of the whole news feed against a plain oracle; those of its parts are in tests/actors."""
