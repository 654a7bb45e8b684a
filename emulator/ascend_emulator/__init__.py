"""An emulator of Ascend's CANN libraries, so that the real torch_npu runs on a machine without an NPU.

It proves calls, types, shapes, composition and launch counts. It proves nothing about speed, and nothing
about the rounding of Ascend's own kernels: every operator computes as ATen does on the CPU.

``installed`` finds torch and torch_npu, ``build`` compiles ``sources/`` against them, ``environment`` makes
the variables of a process that runs on the result, ``counters`` reads its counts from inside that process,
and ``report`` from the files that processes leave.
"""
