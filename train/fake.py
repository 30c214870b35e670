"""A quantised model in PyTorch, trainable: fake quantisation with straight-through estimators.

The forward pass computes what `golden.quant.evaluate.QuantisedNetwork` does, and `export` gives the model that this
was; nothing is rounded once more on the way out. Backwards, rounding counts as the identity, inside of the range only
(Bengio et al., arXiv 1308.3432), and steps get the gradient that follows from it: that of LSQ (Esser et al.,
arXiv 1902.08153, section 2.1). What is trained:

- weights, before they are rounded;
- scale codes of 4-bit weights, as reals that are rounded to the integers 1 to the window's largest value, and the real
  scale of each output channel, as its logarithm;
- scales of activations, per tensor and time step, as logarithms; tensors that are concatenated share them;
- everything else that the model holds: biases, embedding, modulation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from golden.formats import S4, Format
from golden.quant.model import TENSORS, QuantisedModel
from golden.workload.unet import CLASSES, GRAPH, MODELS, NETWORK, Node
from golden.workload.unet import Weights as FloatWeights

from .network import Parameters, embedding, node_output

SHARED = {name: names[0] for names in GRAPH.sharing() for name in names}     # by tensor, whose scale it has
EDGE = 0.49     # how far from its integer, in steps, a weight may begin


class FakeQuantised:
    """A quantised model that can be trained.

    Parameters
    ----------
    model : QuantisedModel
        What it begins as, exactly.
    weights : mapping
        The float model's. A weight begins as near to it as the model's integer allows.

    Raises
    ------
    ValueError
        If a scale window has values other than 0, 1, 2, ... (only those are trained).
    """

    def __init__(self, model: QuantisedModel, weights: FloatWeights) -> None:
        self.model = model
        self.activation = MODELS[model.model].activation
        self.weight: Parameters = {}
        self.code: Parameters = {}
        self.channel_scale: Parameters = {}
        for name, made in model.weights.items():
            window = made.scale_format
            whole = np.arange(window.max_code + 1)
            if made.fmt == S4:
                if not np.array_equal(window.value(whole), whole):
                    raise ValueError(f"layer {name!r}: only scale windows of whole numbers without gaps can be "
                                     f"trained, such as UE1M3, not {window}")
                self.code[name] = _trainable(made.codes)
            steps = np.repeat(made.steps()[:, :, None, None], made.q.shape[2], 2).repeat(made.q.shape[3], 3)
            self.weight[name] = _trainable(np.clip(weights[f"{name}.weight"], (made.q - EDGE) * steps,
                                                   (made.q + EDGE) * steps))
            self.channel_scale[name] = _trainable(np.log(made.channel_scale))
        self.rest = {name: _trainable(array) for name, array in model.rest.items()}
        self.scale = {SHARED[name]: _trainable(np.log(model.scales[name])) for name in TENSORS}
        self.sigmas = torch.from_numpy(model.sigmas.astype(np.float32))

    def parameters_of(self, nodes: Iterable[Node]) -> dict[str, list[Tensor]]:
        """What is trained of some nodes, by kind: "weight", "code", "scale", "rest". `freqs` are constants."""
        nodes = list(nodes)
        found: dict[str, list[Tensor]] = {"weight": [], "code": [], "scale": [], "rest": []}
        for node in nodes:
            found["weight"].append(self.weight[node.name])
            found["scale"].append(self.channel_scale[node.name])
            if node.name in self.code:
                found["code"].append(self.code[node.name])
            for prefix in filter(None, (node.name, node.modulation)):
                found["rest"] += [value for name, value in self.rest.items() if name.rpartition(".")[0] == prefix]
        found["scale"] += [self.scale[name] for name in dict.fromkeys(SHARED[node.output] for node in nodes)]
        if len(nodes) == len(NETWORK):
            found["scale"].append(self.scale[NETWORK[0].inputs[0]])
            found["rest"] += [value for name, value in self.rest.items() if name.startswith("map")]
        return found

    def real_weight(self, name: str) -> Tensor:
        """The weights [K, C, kh, kw] that a layer's integers stand for."""
        steps, limit = self._steps(name), self.model.weights[name].fmt.max
        return _round(self.weight[name] / steps).clamp(-limit, limit) * steps

    def embeddings(self) -> Tensor:
        """Embeddings [steps, classes, 64]."""
        steps = len(self.sigmas)
        labels = torch.arange(CLASSES).repeat(steps)
        return embedding(self.rest, self.sigmas.repeat_interleave(CLASSES), labels, self.activation).reshape(
            steps, CLASSES, -1)

    def quantise(self, name: str, values: Tensor, steps: Tensor) -> Tensor:
        """Values [N, C, H, W] of a tensor as multiples of its scales at the time steps [N]."""
        return _fake_quantise(values, self.scale[SHARED[name]].exp()[steps][:, None, None, None],
                              self.model.formats[name])

    def run(self, nodes: Iterable[Node], tensors: Mapping[str, Tensor], steps: Tensor,
            labels: Tensor) -> dict[str, Tensor]:
        """Run nodes in order: `tensors`, [N, C, H, W] by name, and what the nodes write.

        Samples may be of different time steps [N] and classes [N]. The network's input must be quantised already.
        """
        e = self.embeddings()[steps, labels]
        found = dict(tensors)
        for node in nodes:
            inputs = torch.cat([found[name] for name in node.inputs], dim=1)
            residual = None if node.residual is None else found[node.residual]
            # Rounding each pixel before it is repeated is the same as after.
            y = node_output(self.rest | {f"{node.name}.weight": self.real_weight(node.name)},
                            replace(node, upsample=False), inputs, residual, e, self.activation)
            y = self.quantise(node.output, y, steps)
            found[node.output] = functional.interpolate(y, scale_factor=2) if node.upsample else y
        return found

    def forward(self, x: Tensor, steps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Run the whole network on preconditioned images [N, 1, H, W]; "F" is the result."""
        first = NETWORK[0].inputs[0]
        return self.run(NETWORK, {first: self.quantise(first, x, steps)}, steps, labels)

    @torch.no_grad()
    def export(self) -> QuantisedModel:
        """The quantised model that this is now."""
        made = {}
        for name, old in self.model.weights.items():
            q = _round(self.weight[name] / self._steps(name)).clamp(-old.fmt.max, old.fmt.max)
            codes = self._values(name).numpy().astype(np.int64) if name in self.code else old.codes
            made[name] = replace(old, q=q.numpy().astype(np.int64), codes=codes,
                                 channel_scale=self.channel_scale[name].exp().numpy().astype(np.float64))
        scales = {name: self.scale[SHARED[name]].exp().numpy().astype(np.float64) for name in TENSORS}
        rest = {name: value.numpy().copy() for name, value in self.rest.items()}
        return replace(self.model, weights=made, scales=scales, rest=rest)

    def _values(self, name: str) -> Tensor:
        """Integer scale values [K, groups]. Where they are trained, each is its own code."""
        made = self.model.weights[name]
        if name not in self.code:
            return torch.from_numpy(made.scale_format.value(made.codes).astype(np.float32))
        return _round(self.code[name]).clamp(1, made.scale_format.max_code)

    def _steps(self, name: str) -> Tensor:
        """What a weight of 1 stands for, [K, C, 1, 1]."""
        made = self.model.weights[name]
        values = self._values(name).repeat_interleave(made.group, dim=1)[:, :made.q.shape[1]]
        return (values * self.channel_scale[name].exp()[:, None])[:, :, None, None]


def _trainable(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32)).requires_grad_()


def _round(x: Tensor) -> Tensor:
    """Round to nearest; backwards the identity."""
    return x + (x.round() - x).detach()


def _fake_quantise(x: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """As `golden.quant.evaluate.fake_quantise`, halves up."""
    x = x / scale
    return (x + ((x + 0.5).floor() - x).detach()).clamp(fmt.min, fmt.max) * scale
