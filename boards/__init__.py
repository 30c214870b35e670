"""Bring-up: the accelerator on a board, behind a serial line."""
