"""Backends (implementations of the network's primitives) and device runtimes of shufflenet-fn."""
