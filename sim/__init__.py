"""Simulation of the emitted Verilog: the functional lane (cocotb) and the fast lane (shared library)."""
