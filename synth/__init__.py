"""Synthesis flows on the emitted Verilog."""
