"""Checks that a checkpoint file is undamaged and its weights are finite, before they are used."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from ..wording import counted

WEIGHTS = ('state_dict', 'ema_state_dict')  # where MMEngine keeps them
SIGNATURES = {b'PK\x03\x04': 'zip', b'PK\x05\x06': 'zip'}  # the latter is of a zip file without content


class DamagedCheckpointError(ValueError):
    """A checkpoint is truncated, damaged or spoilt by NaN, or the file is not a checkpoint."""


class NonFiniteWeightsError(DamagedCheckpointError):
    """A checkpoint has weights that are NaN or infinite."""


def check_records(file: IO[bytes], name: str) -> bool:
    """Compare every record of a checkpoint with the checksum (CRC-32) that was written beside it.

    torch.load itself does not check them.

    Args:
        file: The open checkpoint; afterwards its position is the beginning.
        name: Its name, for messages.

    Returns:
        Whether it is a zip file, which torch has written since version 1.6. Older formats have no checksums.

    Raises:
        DamagedCheckpointError: The file is truncated, damaged, or not a checkpoint. The message names the record.
    """
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    if head not in SIGNATURES:
        if head[:1] == b'\x80':  # a pickle
            return False
        if name.endswith('.safetensors'):
            raise DamagedCheckpointError(
                f'{name}: safetensors files cannot be read; convert it by torch.save(dict(state_dict='
                'safetensors.torch.load_file(FILE)), NEW_FILE)'
            )
        what = 'it is empty' if size == 0 else 'it is another kind of file'
        raise DamagedCheckpointError(f'{name}: this is not a checkpoint ({what}); give a file that torch.save wrote')
    try:
        if not zipfile.is_zipfile(file):
            raise DamagedCheckpointError(
                f'{name}: the checkpoint is truncated (its end is missing); use an earlier one'
            )
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if not any(record.filename.endswith('data.pkl') for record in records):
                raise DamagedCheckpointError(
                    f'{name}: this is a zip file, but not a checkpoint; give a file that torch.save wrote'
                )
            # without any checksum it was written under torch.serialization.set_crc32_options(False)
            broken = archive.testzip() if any(record.CRC for record in records) else None
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise DamagedCheckpointError(f'{name}: the checkpoint is damaged ({error}); use an earlier one') from error
    if broken is not None:
        raise DamagedCheckpointError(
            f'{name}: the checkpoint is damaged: its record {broken} differs from its checksum (CRC-32). Use an '
            'earlier one, or fetch it again'
        )
    file.seek(0)
    return True


def tensors_of(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Every tensor inside dicts, lists and tuples, with its path, whose keys are joined by dots."""
    import torch

    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from tensors_of(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from tensors_of(value, f'{path}.{index}' if path else str(index))


def not_finite(tensor: Any, infinite: bool = True) -> int:
    """The number of values that are NaN or, if asked for, infinite; 0 for types that have no such values."""
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.layout != torch.strided:
        return 0
    if tensor.is_floating_point() and tensor.element_size() == 1:  # float8 has no test of its own
        tensor = tensor.float()
    return int((~torch.isfinite(tensor) if infinite else torch.isnan(tensor)).sum())


def check_finite(checkpoint: Any, name: str) -> None:
    """Refuse weights that are not finite, those of the optimiser included.

    NaN is refused everywhere. An infinity is refused only in a tensor whose name ends in weight or bias, because a
    buffer may hold one on purpose, such as an attention mask, and nothing but its name tells what a tensor is.

    Args:
        checkpoint: Content of the file.
        name: Its name, for messages.

    Raises:
        NonFiniteWeightsError: There are such weights; the message names the first tensor.
    """
    if not isinstance(checkpoint, Mapping):
        return
    known = [key for key in (*WEIGHTS, 'optimizer') if isinstance(checkpoint.get(key), Mapping)]
    for part in known or ['']:
        for path, tensor in tensors_of(checkpoint[part] if part else checkpoint):
            bad = not_finite(tensor, part in ('', *WEIGHTS) and path.endswith(('weight', 'bias')))
            if bad:
                refuse_tensor(name, f'{part}: {path}' if part == 'optimizer' else path, bad)


def refuse_tensor(name: str, tensor: str, bad: int) -> None:
    """Raise the error about a tensor of a checkpoint that is not finite.

    Raises:
        NonFiniteWeightsError: Always.
    """
    raise NonFiniteWeightsError(
        f'{name}: {tensor} has {counted(bad, "value")} not finite (NaN or infinite), so that the output of the model '
        'would be meaningless. Use an earlier checkpoint, from before the training diverged'
    )
