"""Initialises one SoftHSM2 token; run as a program of its own, with the module's path and the token's label as arguments.

The PIN and the SO PIN come as two lines on standard input: `softhsm2-util` would want them in argv, where every user of the machine reads
them. SOFTHSM2_CONF says where the token lies. Uses the standard library only.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import c_ubyte, c_ulong

_USER_SO = 0
_SERIAL_SESSION, _RW_SESSION = 4, 2


def main() -> int:
    module, label = ctypes.CDLL(sys.argv[1]), sys.argv[2]
    pin, so_pin = (sys.stdin.readline().strip().encode() for _ in range(2))

    def call(name: str, *arguments: object) -> None:
        result = getattr(module, name)(*arguments)
        if result != 0:
            raise SystemExit(f"{name}: CKR {result:#x}")

    call("C_Initialize", None)
    count = c_ulong()
    call("C_GetSlotList", c_ubyte(1), None, ctypes.byref(count))
    slots = (c_ulong * count.value)()
    call("C_GetSlotList", c_ubyte(1), slots, ctypes.byref(count))
    # SoftHSM2 keeps one uninitialised token in its last slot; initialising gives it a slot number of its own, so it is looked for again.
    call("C_InitToken", c_ulong(slots[count.value - 1]), so_pin, c_ulong(len(so_pin)), label.encode().ljust(32))
    call("C_Finalize", None)
    call("C_Initialize", None)
    call("C_GetSlotList", c_ubyte(1), None, ctypes.byref(count))
    slots = (c_ulong * count.value)()
    call("C_GetSlotList", c_ubyte(1), slots, ctypes.byref(count))
    session = c_ulong()
    call("C_OpenSession", c_ulong(slots[0]), c_ulong(_SERIAL_SESSION | _RW_SESSION), None, None, ctypes.byref(session))
    call("C_Login", session, c_ulong(_USER_SO), so_pin, c_ulong(len(so_pin)))
    call("C_InitPIN", session, pin, c_ulong(len(pin)))
    call("C_Finalize", None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
