"""Tests of what makes many nodes one cluster."""
