"""Tests of the notification rules and actors."""
