"""Notifications at the edge: entry, templates, credentials, tracking, and the wiring of their actors."""
