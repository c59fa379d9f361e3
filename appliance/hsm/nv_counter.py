"""A count that only goes up, kept by the TPM: what tells a log that was rolled back, with its whole disk, from the one that goes on.

I/O over a TPM context that its owner lends (`TpmToken.lend`). An NV index of type counter in the owner's hierarchy: nobody can set it,
and one that is deleted and defined anew starts above every count that the chip ever had (TPM 2.0 Library part 3, NV_Increment). Pure
besides: `Allowance`, which keeps a caller gone wild from wearing the chip's memory out.
"""

from __future__ import annotations

from typing import Any

from tpm2_pytss import TPM2_ALG, TPM2_NT, TPM2_RC, TPM2B_NV_PUBLIC, TPMA_NV, TPMS_NV_PUBLIC, TSS2_Exception

INDEX = 0x01ACBE01
"""In the owner's range (TCG Registry of reserved handles: 0x01800000 to 0x01BFFFFF)."""
COUNT_BYTES = 8
AT_ONCE_MAX = 64
REFILL_S = 300.0
"""A chip's NV memory takes some hundred thousand writes: one each five minutes is 105,000 a year if the recorder takes all it may. Restarts
and tests are not held up by it: 64 are there at the start."""
_ATTRIBUTES = TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.OWNERREAD | TPMA_NV.NO_DA | (int(TPM2_NT.COUNTER) << TPMA_NV.TPM2_NT_SHIFT)
_HANDLE, _FORMAT_ONE_ERROR = int(TPM2_RC.HANDLE), 0x0BF


class Allowance:
    """How often the counter may go up. Pure: the time comes with the question."""

    def __init__(self, now_s: float) -> None:
        self._left, self._since_s = float(AT_ONCE_MAX), now_s

    def take(self, now_s: float) -> float | None:
        """None where one more is allowed; otherwise in how many seconds it will be."""
        self._left, self._since_s = min(AT_ONCE_MAX, self._left + (now_s - self._since_s) / REFILL_S), now_s
        if self._left < 1:
            return (1 - self._left) * REFILL_S
        self._left -= 1
        return None


def advance(context: Any) -> int:
    """The new count, durable in the chip when this returns; defines the counter at its first use."""
    index = _found(context)
    if index is None:
        wanted = TPMS_NV_PUBLIC(nvIndex=INDEX, nameAlg=TPM2_ALG.SHA256, attributes=TPMA_NV(_ATTRIBUTES), dataSize=COUNT_BYTES)
        index = context.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=wanted))
    context.nv_increment(index)
    return _read(context, index)


def read(context: Any) -> int:
    """The count; 0 where it was never advanced, or its index was deleted: less than whoever advanced it remembers."""
    index = _found(context)
    if index is None:
        return 0
    try:
        return _read(context, index)
    except TSS2_Exception as error:
        if error.rc == int(TPM2_RC.NV_UNINITIALIZED):  # power failed between its definition and its first step
            return 0
        raise


def _read(context: Any, index: Any) -> int:
    return int.from_bytes(bytes(context.nv_read(index, COUNT_BYTES)))


def _found(context: Any) -> Any:
    """The index as the library's handle; None where the chip has none."""
    try:
        return context.tr_from_tpmpublic(INDEX)
    except TSS2_Exception as error:
        if error.rc & _FORMAT_ONE_ERROR == _HANDLE:
            return None
        raise
