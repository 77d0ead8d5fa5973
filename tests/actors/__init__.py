"""Tests of the actor runtime and of the actors themselves."""
