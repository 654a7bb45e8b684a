"""Ascend NPUs. Only this package imports torch_npu, and only when an NPU is requested.

* ``probe``: detects NPUs in a child process, or says why there is none;
* ``environment``: the variables that Ascend recommends, set unless the user has set them;
* ``chip``: dtypes and overflow flag of each chip;
* ``runtime``: the ``Runtime`` of Ascend NPUs, with the settings of torch_npu that the network needs.
"""
