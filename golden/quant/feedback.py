"""Rounding with error feedback: weights that make up for each other's rounding errors on real activations.

GPTQ (Frantar et al., arXiv 2210.17323, section 3.3): input by input, weights are rounded to their scale, and the
weights of the inputs that are still to come are moved so that the layer's result on the calibration data changes
least. With the activations' second moments H = X X^T and U the upper Cholesky factor of its inverse, an error of
input j, d = (w[j] - q[j]) / U[j, j], takes d * U[j, i] off every later input i. Inputs with the largest moments go
first, as the published code does on demand ("act-order"); scales are chosen before and stay.

The inputs are those of the quantised network, whose errors the weights should make up for as well. So what is rounded
is not W but the least-squares solution of  W X_float = W' X,  which is  W' = W X_float X^T H^-1  (the asymmetric
calibration of GPTAQ, Li et al., arXiv 2504.02692, section 4, solved in one step).
"""

from dataclasses import replace

import numpy as np

from golden.quant.weights import Float64Array, QuantisedWeights

__all__ = ["DAMPING", "least_squares_weights", "round_with_feedback"]

DAMPING = 0.01      # of the mean moment, added to the diagonal: GPTQ's default


def _damped(moments: Float64Array) -> Float64Array:
    """Moments [n, n] made safe to invert; inputs that are always zero get the moment 1."""
    diagonal = np.diag(moments)
    result: Float64Array = moments + np.diag(DAMPING * diagonal.mean() + (diagonal == 0))
    return result


def least_squares_weights(weights: Float64Array, moments: Float64Array, cross: Float64Array) -> Float64Array:
    """Weights [K, n] that come closest with quantised inputs to what `weights` [K, n] do with float inputs.

    Parameters
    ----------
    weights : float64 [K, n]
    moments : float64 [n, n]
        X X^T of the quantised inputs X.
    cross : float64 [n, n]
        (X_float - X) X^T.
    """
    result: Float64Array = weights + np.linalg.solve(_damped(moments), (weights @ cross).T).T
    return result


def round_with_feedback(weights: Float64Array, moments: Float64Array, scaled: QuantisedWeights) -> QuantisedWeights:
    """Round weights to given scales so that the layer's result changes least.

    Parameters
    ----------
    weights : float64 [K, C, kh, kw]
    moments : float64 [n, n]
        X X^T of the inputs, n = C * kh * kw in the order of the weights' axes.
    scaled : QuantisedWeights
        The scales; its integers are not used.
    """
    size = weights[0].size
    steps = np.broadcast_to(scaled.steps()[:, :, None, None], weights.shape).reshape(-1, size)
    order = np.argsort(-np.diag(moments), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(_damped(moments)[np.ix_(order, order)])).T    # upper
    left = weights.reshape(-1, size)[:, order].astype(np.float64)
    q = np.empty(left.shape, np.int64)
    for place, column in enumerate(order):
        step = steps[:, column]
        q[:, column] = np.clip(np.rint(left[:, place] / step), -scaled.fmt.max, scaled.fmt.max)
        error = (left[:, place] - q[:, column] * step) / factor[place, place]
        left[:, place:] -= error[:, None] * factor[place, place:]
    return replace(scaled, q=q.reshape(weights.shape))
