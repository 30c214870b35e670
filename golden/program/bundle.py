"""A program and what the host must know to run it: where tensors lie in the data region, and what labels they have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from golden.formats import FORMATS, Tensor
from golden.program.emit import Channel
from golden.program.network import TensorShape
from golden.program.pack import pack_batch, pack_tensor, unpack_tensor

__all__ = ["HostTensor", "Program"]


@dataclass(frozen=True)
class HostTensor:
    """A tensor in the data region: its offset in bytes, shape and format."""

    offset: int
    tensor: TensorShape


@dataclass(frozen=True, eq=False)
class Program:
    """A program, and what the host must know to run it.

    Parameters
    ----------
    code : bytes
        The program region.
    count : int
        Descriptors, for register PROGRAM_COUNT.
    data_size : int
        Bytes of the data region.
    samples, blocks : int
        N; parameter blocks that one batch can mix.
    bus_bits : int
    tensors : mapping
        By name, tensors in the data region: inputs, outputs and spills.
    labels : mapping
        By name, label index and slot of each channel of the tensors that are labelled.
    layers : mapping
        By the number of a descriptor, the name of the layer that it runs.
    """

    code: bytes
    count: int
    data_size: int
    samples: int
    blocks: int
    bus_bits: int
    tensors: Mapping[str, HostTensor]
    labels: Mapping[str, Sequence[Channel]]
    layers: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the code."""
        return {
            "count": self.count, "program_size": len(self.code), "data_size": self.data_size, "samples": self.samples,
            "blocks": self.blocks, "bus_bits": self.bus_bits,
            "tensors": {name: {"offset": place.offset, "shape": list(place.tensor.shape),
                               "format": place.tensor.fmt.name} for name, place in self.tensors.items()},
            "labels": {name: [list(place) for place in places] for name, places in self.labels.items()},
            "layers": {str(number): name for number, name in self.layers.items()}}

    @classmethod
    def from_json(cls, code: bytes, made: Mapping[str, Any]) -> "Program":
        """The program of which these are the code and what `to_json` made.

        Raises
        ------
        ValueError
            If something is missing, or the code has another length.
        """
        try:
            if len(code) != made["program_size"]:
                raise ValueError(f"the program has {len(code)} bytes, not {made['program_size']}")
            tensors = {}
            for name, place in made["tensors"].items():
                channels, samples, height, width = place["shape"]
                tensors[name] = HostTensor(place["offset"], TensorShape((channels, samples, height, width),
                                                                        FORMATS[place["format"]]))
            labels = {name: [(index, slot) for index, slot in places] for name, places in made["labels"].items()}
            return cls(code, made["count"], made["data_size"], made["samples"], made["blocks"], made["bus_bits"],
                       tensors, labels, {int(number): name for number, name in made["layers"].items()})
        except KeyError as error:
            raise ValueError(f"{error.args[0]!r} is missing or unknown") from None

    def batch_table(self, sample_block: Sequence[int]) -> bytes:
        """What lies at offset 0 of the data region.

        Parameters
        ----------
        sample_block : sequence of int
            Parameter block of each sample, for instance step * classes + class.

        Raises
        ------
        ValueError
            If there are not N of them, or more different ones than the program has room for.
        """
        different = sorted(set(sample_block))
        if len(sample_block) != self.samples or len(different) > self.blocks:
            raise ValueError(f"{len(sample_block)} samples of {len(different)} different blocks; the program has "
                             f"{self.samples} samples of at most {self.blocks}")
        padded = different + different[-1:] * (self.blocks - len(different))
        return pack_batch(self.bus_bits, padded, [different.index(block) for block in sample_block])

    def data(self, inputs: Mapping[str, Tensor], sample_block: Sequence[int]) -> bytearray:
        """A data region with the batch table and input tensors in it.

        Raises
        ------
        ValueError
            As `batch_table`, or if a tensor is not the program's.
        """
        region = bytearray(self.data_size)
        table = self.batch_table(sample_block)
        region[:len(table)] = table
        for name, tensor in inputs.items():
            place = self.tensors.get(name)
            if place is None or place.tensor != TensorShape(tensor.shape, tensor.fmt):
                expected = "no such tensor in the data region" if place is None else f"a tensor {place.tensor}"
                raise ValueError(f"{name!r} is {tensor.fmt.name} {tensor.shape}; the program has {expected}")
            raw = pack_tensor(tensor)
            region[place.offset:place.offset + len(raw)] = raw
        return region

    def tensor(self, data: bytes | bytearray, name: str) -> Tensor:
        """Read a tensor, for instance an output, from the data region."""
        place = self.tensors[name]
        return unpack_tensor(data[place.offset:], place.tensor.fmt, place.tensor.shape)
