"""An emulator of Ascend's CANN libraries, so that the real torch_npu runs on a machine without an NPU.

It checks calls, types, shapes, composition and launch counts. It does not show speed, or the rounding of
Ascend's own kernels: every operator computes as ATen does on the CPU.

``installed`` finds torch and torch_npu, ``build`` compiles ``sources/`` against them, and ``environment``
returns the variables for a process on the emulator. ``counters`` reads the counts from inside such a process,
and ``report`` from the files that processes write.
"""
