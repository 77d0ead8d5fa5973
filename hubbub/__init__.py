"""What users import: the Python client and the bot SDK. Of our folders it imports `protocol` only."""
