"""Sampling on an accelerator: the host integrates, the accelerator evaluates the network."""

from collections.abc import Callable, Sequence

from golden.formats import Tensor
from golden.workload.sample import OUTPUT, StepProgram
from golden.workload.sampler import Images

from .device import Device

__all__ = ["DeviceNetwork"]

Observer = Callable[[int, Tensor, Tensor], None]


class DeviceNetwork:
    """The network F on an accelerator, for `golden.workload.sampler.integrate`.

    Counters are cleared before every evaluation.

    Parameters
    ----------
    device : Device
    steps : sequence of StepProgram
        One per noise level; the program is loaded for every evaluation.
    observe : callable, optional
        Called after each evaluation with the noise level's number and the program's input and output.
    config_hash : int, optional
        That of the configuration that the programs were made for; compared with the hardware's.
    """

    def __init__(self, device: Device, steps: Sequence[StepProgram], observe: Observer | None = None,
                 config_hash: int | None = None) -> None:
        self.device, self.steps = device, steps
        self.observe, self.config_hash = observe, config_hash

    def __call__(self, x: Images, number: int) -> Images:
        """Evaluate F(x) at a noise level; raises as the methods of `Device`."""
        step, device = self.steps[number], self.device
        source = step.quantise(x)
        device.load_program(step.program, self.config_hash)
        for name, tensor in step.sources(source).items():
            device.write_data(name, tensor)
        device.set_batch(step.sample_block)
        device.clear_counters()
        device.run_step(number)
        result = device.read_data(OUTPUT)
        if self.observe is not None:
            self.observe(number, source, result)
        return step.real(result)
