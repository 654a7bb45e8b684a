"""Operators written in C++ for the CPU and built on first use; ``shufflenet_fn_backends.cpu`` uses them."""
