"""CANN's runtime called directly, without torch: for scripts that test the emulator's own."""

from __future__ import annotations

import ctypes

SUCCESS = 0
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3


class Cann:
    """The library, initialized, with the device set if there is one."""

    def __init__(self, device: int | None = 0) -> None:
        self.library = ctypes.CDLL("libascendcl.so")
        self.library.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.library.aclrtGetSocName.restype = ctypes.c_char_p
        assert self.library.aclInit(None) == SUCCESS
        if device is not None:
            assert self.call("aclrtSetDevice", device) == SUCCESS

    def call(self, name: str, *arguments: object) -> int:
        """The function's return code."""
        return int(getattr(self.library, name)(*arguments))

    def message(self) -> str:
        """What the last failures said; asking for it empties it."""
        text = self.library.aclGetRecentErrMsg()
        return text.decode() if text else ""

    def allocate(self, size: int) -> tuple[int, ctypes.c_void_p]:
        """The return code of ``aclrtMalloc`` and the pointer."""
        pointer = ctypes.c_void_p()
        code = self.call("aclrtMalloc", ctypes.byref(pointer), ctypes.c_size_t(size), 0)
        return code, pointer

    def free_memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        assert self.call("aclrtGetMemInfo", 1, ctypes.byref(free), ctypes.byref(total)) == SUCCESS
        return free.value, total.value

    def copy(self, to: object, source: object, size: int, kind: int, room: int | None = None) -> int:
        """The return code of a blocking copy."""
        sizes = ctypes.c_size_t(size if room is None else room), ctypes.c_size_t(size)
        return self.call("aclrtMemcpy", to, sizes[0], source, sizes[1], kind)

    def handle(self, maker: str, *arguments: object) -> ctypes.c_void_p:
        """A new event or stream."""
        made = ctypes.c_void_p()
        assert self.call(maker, ctypes.byref(made), *arguments) == SUCCESS
        return made
