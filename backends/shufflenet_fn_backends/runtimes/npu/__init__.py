"""Ascend NPUs. Only this package imports torch_npu, and only when an NPU is requested."""
