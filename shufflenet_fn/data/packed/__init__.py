"""A data set packed into ArrayRecord shards: writing, reading, verifying."""
