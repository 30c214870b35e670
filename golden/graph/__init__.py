"""Networks of real numbers: description, files, import, and the way to integer networks for the hardware."""
