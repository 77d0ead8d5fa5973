"""Tests of the providers, most of them against a push service that runs on Node."""
