"""The trained network on the engine, layer by layer: each reads what the layers before it wrote, labels included.

A tensor that a layer on the engine wrote in this time step is the input of the layers that read it, and its channels'
labels are those that the hardware's detector made. Other tensors are real activations, and the host writes their
labels. The host moves tensors between layers, for there is no sequencer yet.
"""

from collections.abc import Mapping
from dataclasses import replace

from golden.detector import Labels, RefreshPolicy
from golden.formats import Tensor
from golden.layer import LabelPlace
from golden.layout import depth_to_space, space_to_depth
from golden.workload.layers import RealLayer
from golden.workload.unet import NETWORK, Node
from hw.config import Config

from .engine import FastEngine
from .measure import Labelled, Measured, OutputLabels, balance, label_input, measure

__all__ = ["NetworkRun"]

NODES = {node.name: node for node in NETWORK}
STRIDED = {name for node in NETWORK if node.stride == 2 for name in node.inputs}


class LabelTable:
    """Places in the label table, one behind the other; when it is full it is begun anew."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.places: dict[str, LabelPlace] = {}
        self._end = 0

    def place(self, tensors: Mapping[str, int]) -> list[LabelPlace]:
        """Find or make places for tensors, given by name with their channels; all others may be gone afterwards."""
        new = {name: channels for name, channels in tensors.items() if name not in self.places}
        if (self._end + sum(new.values()) > self.config.label_depth
                or len(self.places) + len(new) > self.config.label_slots):
            self.places.clear()
            self._end, new = 0, dict(tensors)
        for name, channels in new.items():
            self.places[name] = LabelPlace(self._end, len(self.places))
            self._end += channels
        return [self.places[name] for name in tensors]


class NetworkRun:
    """Layers of the network on one engine.

    Parameters
    ----------
    engine : FastEngine
        Reset.
    """

    def __init__(self, engine: FastEngine) -> None:
        self.engine = engine
        self._table = LabelTable(engine.config)
        self._step: int | None = None
        self._made: dict[str, Tensor] = {}      # as it was written, by name
        self._labels: dict[str, Labels] = {}    # those that the detector has made
        engine.set_policy(RefreshPolicy("every"))

    def run(self, real: RealLayer) -> Measured:
        """Run a layer; raises as `sim.measure.measure`. All layers of a step in the network's order, then the next."""
        node, config = NODES[real.layer.name], self.engine.config
        if real.step != self._step:
            self._step = real.step
            self._made.clear()
            self._labels.clear()
        layer = replace(
            real.layer,
            inputs=tuple(self._input(node, name, tensor)
                         for name, tensor in zip(node.inputs, real.layer.inputs, strict=True)),
            residual=self._made.get(node.residual or "", real.layer.residual))
        name = _stored(node.output, node.output in STRIDED)
        tensors = {_stored(name, node.stride == 2): tensor
                   for name, tensor in zip(node.inputs, layer.inputs, strict=True)}
        before = dict(self._table.places)
        *places, place = self._table.place({key: tensor.shape[0] for key, tensor in tensors.items()}
                                           | {name: layer.out_shape[0]})
        inputs = []
        for where, (key, tensor) in zip(places, tensors.items(), strict=True):
            if where != before.get(key):        # there are no labels yet, or no longer
                self._labels.pop(key, None)
            made = self._labels.get(key)
            inputs.append(label_input(config, tensor, where) if made is None else Labelled(where, made, True))
        detection = balance(config, layer.out_shape, 4 if node.upsample else 1)
        measured = measure(self.engine, layer, inputs, OutputLabels(place, detection, real.step))
        self._made[node.output] = depth_to_space(measured.written) if node.output in STRIDED else measured.written
        assert measured.out_labels is not None
        self._labels[name] = measured.out_labels
        return measured

    def _input(self, node: Node, name: str, tensor: Tensor) -> Tensor:
        made = self._made.get(name)
        if made is None:
            return tensor
        return space_to_depth(made) if node.stride == 2 else made


def _stored(name: str, strided: bool) -> str:
    """A tensor's name in the label table; space-to-depth has channels, and labels, of its own."""
    return f"{name} by space-to-depth" if strided else name
