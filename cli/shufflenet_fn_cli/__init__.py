"""Command line of shufflenet-fn."""
