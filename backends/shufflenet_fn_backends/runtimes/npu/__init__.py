"""Ascend NPUs, through torch_npu. Nothing else in this repository imports it, and this only when asked to.

* ``probe``: whether there is an NPU and, if not, why, found in a process of its own;
* ``environment``: the variables that Ascend advises, set where the user has not;
* ``chip``: which dtypes a chip has, and its overflow flag;
* ``setup``: the settings of torch_npu that the network needs, checked;
* ``runtime``: all of it as a ``Runtime``.
"""
