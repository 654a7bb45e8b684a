"""The C++ operators of ``shufflenet_fn_backends.cpu``, which are built at their first use."""
