"""Quantisation of the U-Net: formats of weights and activations, calibration, and what they cost in quality."""
