"""Ascend NPUs. Only this package imports torch_npu, and only when an NPU is requested.

* ``probe``: whether there is an NPU and, if not, why, found in a child process;
* ``environment``: the variables that Ascend recommends, set unless the user has set them;
* ``chip``: dtypes and overflow flag of each chip;
* ``runtime``: the ``Runtime`` of Ascend NPUs, with the settings of torch_npu that the network needs.
"""
