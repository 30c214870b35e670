"""The workload: a small trained diffusion U-Net that draws 8x8 digits, in float and as integer layers."""
