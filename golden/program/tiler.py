"""From a network to a program: where tensors lie, what moves when, and which layers run in bands.

If all tensors fit on chip from their maker to their last reader, each has one place that is planned beforehand. If
not, they are placed first fit, and freed after their last reader. Where there is no room, those that are read last
again go to the data region (a *spill*) and come back when they are read. A layer whose inputs and output do not fit
together runs in bands of lines: LOAD lines with a halo, run on them, STORE the inner lines, whose windows were whole.

A tensor that is read in time steps in which its maker is masked out (a cached block) is *kept*: it has its place for
the whole program, on chip if all kept tensors fit beside the rest, else in the data region.

Labels: every tensor that is labelled has an index and a slot of its own. Tensors that come from the data region, and
those for which there is no slot left, have none; their channels name the last label, which no program makes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import gcd, lcm

from golden.layer import LayerError
from golden.machine import Machine
from golden.program.bundle import HostTensor, Program
from golden.program.descriptor import ALIGNMENT, ALL_STEPS
from golden.program.emit import Channel, Emitter, Place, Run, unlabelled
from golden.program.lower import lower
from golden.program.network import Conv, Network, Node, TensorShape, computed_shape, written_shape
from golden.program.pack import Packing, aligned
from golden.program.placement import plan

__all__ = ["tile"]

ALIGNED_NIBBLES = 2 * ALIGNMENT


def tile(network: Network, machine: Machine, blocks: int | None = None) -> Program:
    """Write the program of a network.

    Parameters
    ----------
    network : Network
    machine : Machine
    blocks : int, optional
        Parameter blocks that one batch can mix; by default as many as there are, at most one per sample.

    Raises
    ------
    LayerError
        If a layer cannot run on this configuration; names the layer and the limit.
    golden.conv.AccumulatorOverflow
        If an accumulator of a layer could overflow.
    ValueError
        If `blocks` is not from 1 to N.
    """
    if blocks is None:
        blocks = min(network.samples, network.blocks)
    if not 1 <= blocks <= network.samples:
        raise ValueError(f"blocks={blocks} is not legal: a batch of {network.samples} samples mixes 1 to "
                         f"{network.samples}")
    kept, plainly = _kept(network), set[str]()
    while True:
        lowered = lower(network, machine, plainly)
        try:
            try:
                return _Tiler(lowered, machine, blocks, kept, set()).program()
            except _NoRoom:
                return _Tiler(lowered, machine, blocks, set(), kept).program()
        except _NoBands as error:
            plainly.add(error.node)


def _kept(network: Network) -> set[str]:
    """Tensors that are read in time steps in which they are not made."""
    made = {node.output: node.mask for node in network.nodes}
    return {name for node in network.nodes for name in _reads(node) if name in made and node.mask & ~made[name]}


def _reads(node: Node) -> list[str]:
    """Tensors that a node reads, each once."""
    return list(dict.fromkeys((*node.inputs, *([node.residual] if node.residual else []))))


class _NoRoom(Exception):
    """The tensors that are kept on chip leave too little room."""


class _NoBands(Exception):
    """A node that rearranges what it reads does not fit; plainly it may run in bands."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.node = node


@dataclass
class _Memory:
    """Activation memory as an allocator sees it, in beats; `planned` are the places of tensors, if all have one."""

    beats: int
    planned: dict[str, int] = field(default_factory=dict)
    used: dict[str, tuple[int, int]] = field(default_factory=dict)     # name -> first, count

    def allocate(self, name: str, count: int) -> bool:
        """The planned place, else first fit; whether there was room."""
        if name in self.planned:
            self.used[name] = self.planned[name], count
            return True
        first = 0
        for start, size in sorted(self.used.values()):
            if start - first >= count:
                break
            first = start + size
        if first + count > self.beats:
            return False
        self.used[name] = first, count
        return True


class _Labels:
    """Indices and slots, each given out once."""

    def __init__(self, machine: Machine) -> None:
        self._last_index, self._last_slot = unlabelled(machine)
        self._index = self._slot = 0

    def places(self, counts: Iterable[int]) -> list[Channel] | None:
        """Labels of a tensor that is written in parts of so many channels; None if there is no room."""
        sizes = list(counts)
        if self._index + sum(sizes) > self._last_index or self._slot + len(sizes) > self._last_slot + 1:
            return None
        labels = []
        for size in sizes:
            labels += [(self._index + channel, self._slot) for channel in range(size)]
            self._index, self._slot = self._index + size, self._slot + 1
        return labels


class _Tiler:
    """The state of memory while descriptors are written one after the other.

    `kept` tensors stay on chip for ever; `homed` ones have their home in the data region: they are stored when made.
    """

    def __init__(self, network: Network, machine: Machine, blocks: int, kept: set[str], homed: set[str]) -> None:
        self.network, self.machine, self.packing = network, machine, Packing.of(machine)
        self.tensors = network.tensors
        self.kept, self.homed = kept, homed
        self.emitter = Emitter(machine, network.samples, blocks)
        beats = machine.act_nibbles // self.packing.beat_nibbles
        self.memory = _Memory(beats, self._plan(beats) or {})
        self.label_places = _Labels(machine)
        self.labels: dict[str, list[Channel]] = {}
        self.host: dict[str, HostTensor] = {}
        self.stored: set[str] = set()                   # tensors of which the data region has the contents
        self.data_size = aligned((blocks + network.samples) * self.packing.beat_bytes)
        self.masks = {item.name: ALL_STEPS for item in network.inputs} | {
            node.output: ALL_STEPS if node.output in kept | homed else node.mask for node in network.nodes}
        self.number = 0                                 # of the node
        for name in [item.name for item in network.inputs] + list(network.outputs):
            self._home(name)
        self.stored |= {item.name for item in network.inputs}

    def program(self) -> Program:
        """Go through the nodes."""
        samples = self.network.samples
        first = self.network.nodes[0].name
        if samples > self.machine.samples // 2:
            raise LayerError(f"layer {first!r}: a batch of {samples} samples; samples/2={self.machine.samples // 2}")
        for name in sorted(self.kept):
            if not self.memory.allocate(name, self._beats(name)):
                raise _NoRoom
        self.emitter.batch(0)
        for number, node in enumerate(self.network.nodes):
            self.number = number
            if not self._whole(node):
                self._bands(node)
            for name in list(self.memory.used):
                if name not in self.kept and self._next_use(name) is None:
                    del self.memory.used[name]
        self.emitter.end()
        code, count = self.emitter.program()
        return Program(code, count, self.data_size, samples, self.emitter.blocks, self.machine.bus_bits, self.host,
                       self.labels, self.emitter.layers)

    # Places.

    def _plan(self, beats: int) -> dict[str, int] | None:
        """First beat of every tensor; None if they do not fit, or a map has too many lines to run whole."""
        nodes, reads = self.network.nodes, [_reads(node) for node in self.network.nodes]
        made = {node.output: number for number, node in enumerate(nodes)}
        lives = {}
        for name in self.tensors:
            readers = [number for number, names in enumerate(reads) if name in names]
            needed = [*readers, made[name]] if name in made else readers
            if needed:
                lives[name] = (0, len(nodes)) if name in self.kept else (min(needed), max(needed))
        if self.homed or any(self.tensors[name].shape[2] > self._most_lines() for name in lives):
            return None
        return plan({name: self._beats(name) for name in lives}, lives, beats)

    def _beats(self, name: str) -> int:
        return -(-self.tensors[name].nibbles // self.packing.beat_nibbles)

    def _home(self, name: str) -> HostTensor:
        """The tensor's place in the data region."""
        if name not in self.host:
            self.host[name] = HostTensor(self.data_size, self.tensors[name])
            self.data_size += aligned(-(-self.tensors[name].nibbles // 2))
        return self.host[name]

    def _place(self, name: str) -> Place:
        return Place(self.tensors[name], self.memory.used[name][0] * self.packing.beat_nibbles, self.labels.get(name))

    def _next_use(self, name: str) -> int | None:
        """The node after this one that reads the tensor next."""
        return next((number for number, node in enumerate(self.network.nodes)
                     if number > self.number and name in _reads(node)), None)

    # Whole tensors.

    def _whole(self, node: Node) -> bool:
        """Run a node on whole tensors; False if they do not fit."""
        reads, out = _reads(node), node.output
        needed = sum(self._beats(name) for name in (*reads, out))
        lines = computed_shape(node, self.tensors[reads[0]].shape)[2]
        if needed > self.memory.beats or max(lines, self.tensors[reads[0]].shape[2]) > self._most_lines():
            return False
        if needed > self.memory.beats - sum(self._beats(name) for name in self.kept - {*reads, out}):
            raise _NoRoom
        made = [name for name in (*reads, out) if name not in self.memory.used]
        if not all(self._make_room(name, {*reads, out}) for name in made):
            # Fragments: all go, and those that are needed come back one behind the other.
            for name in [name for name in self.memory.used if name not in self.kept]:
                self._spill(name)
            if not all(self._make_room(name, {*reads, out})
                       for name in (*reads, out) if name not in self.memory.used):
                return False
            made = [name for name in reads if name not in self.kept]
        for name in reads:
            if name in made:
                first, beats = self.memory.used[name]
                self.emitter.load(Run(self._home(name).offset, 0, first, 0, 1, beats), self._mask(name))
        labels = None
        if node.detection is not None:
            factor = 4 if node.transform == "space_to_depth" else 1
            labels = self.label_places.places(factor * (end - first) for first, end in self.emitter.parts(node))
        if labels is not None:
            self.labels[out] = labels
        self.emitter.layer(node, [self._place(name) for name in node.inputs],
                           self._place(node.residual) if node.residual else None, self._place(out))
        if out in self.network.outputs or out in self.homed:
            self._store(out, node.mask)
        if out in self.homed:
            del self.memory.used[out]
        return True

    def _make_room(self, name: str, needed: set[str]) -> bool:
        """Allocate a tensor, spilling those that are read last; False if even that does not help."""
        while not self.memory.allocate(name, self._beats(name)):
            others = [other for other in self.memory.used if other not in needed | self.kept]
            if not others:
                return False
            self._spill(max(others, key=lambda other: self._next_use(other) or 0))
        return True

    def _spill(self, name: str) -> None:
        # What is allocated and neither stored nor made yet is of this node: it has no contents.
        if name not in self.stored and any(node.output == name for node in self.network.nodes[:self.number]):
            self._store(name, self.masks[name])
        del self.memory.used[name]

    def _store(self, name: str, mask: int) -> None:
        place = self._home(name)
        first, beats = self.memory.used[name]
        self.emitter.store(Run(place.offset, 0, first, 0, 1, beats), mask)
        self.stored.add(name)

    def _mask(self, name: str) -> int:
        """Time steps in which a tensor's contents are read, now or later, and there."""
        readers = 0
        for node in self.network.nodes[self.number:]:
            readers |= node.mask if name in _reads(node) else 0
        return self.masks[name] & readers

    # Bands.

    def _most_lines(self) -> int:
        return (1 << self.machine.dim_bits) - 1

    def _bands(self, node: Node) -> None:
        """Run a node in bands, from the data region to the data region."""
        out, reads = node.output, _reads(node)
        if node.upsampled if isinstance(node, Conv) else node.strided:
            raise _NoBands(node.name)
        if self.kept & {*reads, out}:
            raise _NoRoom
        for name in [name for name in self.memory.used if name not in self.kept]:
            self._spill(name)
        _, _, height, width = self.tensors[node.inputs[0]].shape
        period = self._period(node, width)
        if height % period:
            raise LayerError(
                f"layer {node.name!r} does not fit {self.machine.act_nibbles} nibbles of activation memory, and bands "
                f"of it would have a multiple of {period} lines, for their ends to lie at multiples of {ALIGNMENT} "
                f"bytes; the map has {height} lines of {width} pixels")
        halo = period if node.kernel > 1 else 0
        band = self._band(node, height, period, halo)
        home = self._home(out)
        for inner in range(0, height, band):
            inner_end = min(inner + band, height)
            first, end = max(inner - halo, 0), min(inner_end + halo, height)
            places = self._band_places(node, end - first)
            assert places is not None
            for name in reads:
                self._move(name, self.host[name], places[name], first, end - first, 0, self._mask(name), False)
            self.emitter.layer(node, [places[name] for name in node.inputs],
                               places[node.residual] if node.residual else None, places[out])
            lines, skip = inner_end - inner, inner - first
            self._move(out, home, places[out], _out_lines(node, inner), _out_lines(node, lines), _out_lines(node, skip),
                       node.mask, True)
        self.stored.add(out)

    def _period(self, node: Node, width: int) -> int:
        """Bands begin and end at multiples of so many lines, where lines of input and output are aligned."""
        nibbles = ALIGNED_NIBBLES * (4 if node.transform == "space_to_depth" else 1)
        lines = nibbles // gcd(nibbles, width)
        return lcm(lines, 2) if node.transform == "space_to_depth" else lines

    def _band(self, node: Node, height: int, period: int, halo: int) -> int:
        """The most inner lines that fit."""
        for band in range(height, 0, -period):
            lines = min(band + 2 * halo, height)
            if lines <= self._most_lines() and self._band_places(node, lines) is not None:
                return band
        if self.kept:
            raise _NoRoom
        raise LayerError(f"layer {node.name!r} does not fit {self.machine.act_nibbles} nibbles of activation memory, "
                         f"not even in bands of {period} lines")

    def _band_places(self, node: Node, lines: int) -> dict[str, Place] | None:
        """Where a band of so many lines of each tensor lies; None if they do not fit."""
        # Kept tensors were allocated first: they lie one behind the other from address 0 on.
        places, base = {}, sum(self._beats(name) for name in self.kept) * self.packing.beat_nibbles
        base = -(-base // ALIGNED_NIBBLES) * ALIGNED_NIBBLES
        for name in _reads(node):
            channels, samples, _, width = self.tensors[name].shape
            places[name] = Place(TensorShape((channels, samples, lines, width), self.tensors[name].fmt), base)
            base = places[name].end
        width = self.tensors[node.inputs[0]].shape[3]
        shape = written_shape((node.outputs, self.network.samples, lines, width), node.transform)
        places[node.output] = Place(TensorShape(shape, node.out_fmt), base)
        return places if places[node.output].end <= self.machine.act_nibbles else None

    def _move(self, name: str, home: HostTensor, place: Place, first: int, lines: int, skip: int, mask: int,
              store: bool) -> None:
        """Move `lines` lines from line `first` on between the data region and line `skip` on of a band on chip."""
        channels, samples, height, width = home.tensor.shape
        beat = self.packing.beat_nibbles
        band = place.tensor.shape[2]
        run = Run(home.offset + first * width // 2, height * width // 2, (place.base + skip * width) // beat,
                  band * width // beat, channels * home.tensor.fmt.planes * samples, lines * width // beat)
        if store:
            self.emitter.store(run, mask)
        else:
            self.emitter.load(run, mask)



def _out_lines(node: Node, lines: int) -> int:
    """Lines of the written tensor that so many computed ones make."""
    return {"none": lines, "upsample": 2 * lines, "space_to_depth": lines // 2}[node.transform]
