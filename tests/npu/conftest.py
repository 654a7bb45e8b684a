"""Fixtures for what runs on the emulator of CANN: ``ascend-emulator run -- python -m pytest tests/npu``."""

from ascend_emulator.pytest_plugin import forks, libraries, npu, on_emulator, pytest_configure

__all__ = ["forks", "libraries", "npu", "on_emulator", "pytest_configure"]
