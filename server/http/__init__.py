"""The HTTP API, one file per noun. server/http_api.py brings them together."""
