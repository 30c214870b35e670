"""Byte offsets of the registers, and the bits that the driver uses; `hw/sqdm.rdl` describes them."""

from enum import IntEnum

__all__ = ["ARRAY_COUNTERS", "CLEAR_COUNTERS", "CONFIG_FIELDS", "COUNTERS", "COUNTER_NAMES", "MAGIC", "SOFT_RESET",
           "START", "STATUS_BUSY", "STATUS_DONE", "STATUS_ERROR", "STATUS_INTERRUPTS", "STATUS_LABEL_PENDING",
           "STATUS_READY", "VERSION_MAJOR", "WIDE", "Register"]

MAGIC = 0x5351444D
VERSION_MAJOR = 1
COUNTERS = 128

# The first counters, and those of each array, dense ones first; the others read 0.
COUNTER_NAMES = ("run", "idle", "layer", "layers", "read", "written")
ARRAY_COUNTERS = ("busy", "fetch", "weights", "drain", "post", "write", "steps")

# CONTROL
START, SOFT_RESET, CLEAR_COUNTERS = 1, 2, 4
# STATUS
STATUS_INTERRUPTS = 3   # done and error, in IRQ_ENABLE and IRQ_STATUS
STATUS_BUSY, STATUS_DONE, STATUS_ERROR, STATUS_READY, STATUS_LABEL_PENDING = 1, 2, 4, 8, 16


class Register(IntEnum):
    """Byte offsets. Those of `WIDE` have 64 bits, the low word first."""

    ID = 0x000
    VERSION = 0x004
    CONFIG_HASH = 0x008
    CONFIG0 = 0x010
    CONFIG1 = 0x014
    CONFIG2 = 0x018
    CONFIG3 = 0x01C
    CONFIG4 = 0x020
    CONFIG5 = 0x024
    CONFIG6 = 0x028
    CONTROL = 0x040
    STATUS = 0x044
    IRQ_ENABLE = 0x048
    IRQ_STATUS = 0x04C
    ERROR = 0x050
    ERROR_ADDRESS = 0x058
    PROGRAM_BASE = 0x060
    DATA_BASE = 0x068
    PROGRAM_SIZE = 0x070
    DATA_SIZE = 0x074
    PROGRAM_COUNT = 0x078
    TIME_STEP = 0x07C
    WATCHDOG = 0x080
    POLICY = 0x084
    POLICY_MASK = 0x088
    LABEL_ADDRESS = 0x090
    LABEL_DATA = 0x094
    COUNTER = 0x400     # the first of 128, 8 bytes each


WIDE = (Register.ERROR_ADDRESS, Register.PROGRAM_BASE, Register.DATA_BASE, Register.POLICY_MASK, Register.COUNTER)

# Register, lowest bit and width of each parameter that can be read back; *_log2 are powers of two.
CONFIG_FIELDS: dict[str, tuple[Register, int, int]] = {
    "rows": (Register.CONFIG0, 0, 8),
    "cols": (Register.CONFIG0, 8, 8),
    "dense": (Register.CONFIG0, 16, 4),
    "sparse": (Register.CONFIG0, 20, 4),
    "dense_taps": (Register.CONFIG0, 24, 2),
    "lanes_per_scale": (Register.CONFIG1, 0, 8),
    "group": (Register.CONFIG1, 8, 8),
    "scale_exp_bits": (Register.CONFIG1, 16, 4),
    "scale_man_bits": (Register.CONFIG1, 20, 4),
    "acc_bits": (Register.CONFIG1, 24, 8),
    "act_nibbles_log2": (Register.CONFIG2, 0, 8),
    "read_ports": (Register.CONFIG2, 8, 8),
    "fifo_depth": (Register.CONFIG2, 16, 8),
    "window_width": (Register.CONFIG2, 24, 8),
    "weight_depth_log2": (Register.CONFIG3, 0, 8),
    "scale_depth_log2": (Register.CONFIG3, 8, 8),
    "param_depth_log2": (Register.CONFIG3, 16, 8),
    "table_depth_log2": (Register.CONFIG3, 24, 8),
    "list_depth_log2": (Register.CONFIG4, 0, 8),
    "label_depth_log2": (Register.CONFIG4, 8, 8),
    "label_slots_log2": (Register.CONFIG4, 16, 8),
    "samples_log2": (Register.CONFIG4, 24, 8),
    "dim_bits": (Register.CONFIG5, 0, 8),
    "fetch_depth": (Register.CONFIG5, 8, 8),
    "bus_bits": (Register.CONFIG6, 0, 8),
}
