"""Modes: how pixels score each other. A mode is one file here and one line in ``MODES``.

A mode is an ``nn.Module`` built as ``Mode(channels, inter_channels, groups, bias)``. It hands out its weights once and
takes them back at every evaluation, so that a solver normalises them once for a whole solve:

* ``weights()``: as an ordinary attention uses them;
* ``certified_weights(sharpness)``: normalised so that no content logit of tokens in the unit ball exceeds
  ``sharpness``;
* ``attend(weights, queries, keys, values)``: the attention;
* ``sharpness_bound(weights)``: the largest content logit that these weights allow, for the certificate;
* ``lipschitz_factor(sharpness)``: the Lambda of the certificate ``Lip(g) <= gain |W| Lambda``.
"""
from .embedded_gaussian import EmbeddedGaussian

MODES = {'embedded_gaussian': EmbeddedGaussian}

__all__ = ['MODES', 'EmbeddedGaussian']
