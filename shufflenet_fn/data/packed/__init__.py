"""A data set packed into tar shards: writing, reading, verifying."""
