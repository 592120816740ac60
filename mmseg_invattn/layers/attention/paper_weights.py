"""Converts weights of the authors' blocks (https://github.com/Schwartz-Zha/InvertibleAttention) to form ``paper``.

| theirs                                    | ours, in ``PaperAttention2d.state_dict()``                            |
| ----------------------------------------- | -------------------------------------------------------------------- |
| ``query_conv``, ``key_conv``              | ``attention.mode.query``, ``attention.mode.key``                     |
| ``concat_conv``                           | ``attention.mode.join``                                              |
| ``value_conv``, ``gamma`` (convolution)   | ``value``, ``gamma``                                                 |
| ``gamma`` (a number)                      | ``gamma``                                                            |
| ``.weight_orig`` (E, C, 1, 1)             | ``.weight`` (1, E, C)                                                |
| ``.weight_u`` (E,), ``.weight_v`` (C,)    | ``.u`` (1, E), ``.v`` (1, C)                                         |
| ``.bias`` (E,)                            | ``.bias`` (1, E)                                                     |
| ``.weight_sigma``                         | dropped: it only records the last sigma                              |

Their blocks have one head and ``reduction=4``; blocks without ``convGamma`` correspond to ``gamma='scalar'``.
"""

from torch import Tensor

LAYERS = {
    'query_conv': 'attention.mode.query',
    'key_conv': 'attention.mode.key',
    'concat_conv': 'attention.mode.join',
    'value_conv': 'value',
    'gamma': 'gamma',
}
TENSORS = {'weight_orig': 'weight', 'weight_u': 'u', 'weight_v': 'v', 'bias': 'bias'}


def convert_paper_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of one of the authors' ``InvAttention_*`` blocks, for ``PaperAttention2d.load_state_dict``.

    Args:
        state: names as saved; a prefix such as ``res_branch.`` or ``module.`` is dropped.

    Raises:
        ValueError: a name does not occur in their blocks.
    """
    converted = {}
    for name, tensor in state.items():
        *_, layer, last = ['', *name.split('.')]
        if last == 'weight_sigma':
            continue
        if last == 'gamma':
            converted['gamma'] = tensor
        elif layer in LAYERS and last in TENSORS:
            tensor = tensor.flatten(2).squeeze(2) if tensor.dim() == 4 else tensor
            converted[f'{LAYERS[layer]}.{TENSORS[last]}'] = tensor[None]
        else:
            raise ValueError(
                f"{name!r} is not a tensor of the authors' attention blocks: expected "
                f'<layer>.<tensor> with layer in {", ".join(LAYERS)} and tensor in {", ".join(TENSORS)}; '
                'pass the state dict of one block'
            )
    return converted
