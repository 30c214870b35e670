"""The golden model: the NumPy twin of every hardware block, exact to the bit.

The hardware obeys what these modules compute. They accept integers only, check shapes, ranges and
signedness, and raise instead of wrapping. `golden` never imports `hw`.
"""
