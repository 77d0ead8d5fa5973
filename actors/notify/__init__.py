"""Notifications: partitions that decide and remember, channels that deliver, and the pure rules of both."""
