"""Primitives per backend and device runtimes of shufflenet-fn."""
