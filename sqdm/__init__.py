"""Host driver of the accelerator: one interface for the functional simulator, RTL simulation and hardware.

    from sqdm import Device
    from sqdm.golden_backend import GoldenBackend      # or sqdm.hardware_backend, or sim.accelerator

    device = Device.open(GoldenBackend(config))
    device.load_program(tile(network, config))
    device.write_data("x", tensor)
    device.set_batch(sample_block)
    device.run_step(step)
    device.read_data("y")
"""

from .device import Backend, Device, DeviceError, ProgramError

__all__ = ["Backend", "Device", "DeviceError", "ProgramError"]
